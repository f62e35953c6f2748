"""Submit what images.py has, and print what comes back."""

from __future__ import annotations

import asyncio

from images import Thumbnail, album, resize


def main() -> None:
    """Use them from a program without an event loop."""
    thumbnail: Thumbnail = resize.submit("a.png", size=200).result()
    print(thumbnail)
    urgent = resize.options(priority=200)
    handles = urgent.map(["b.png", "c.png"], size=50)
    thumbnails = [handle.result() for handle in handles]
    print(asyncio.run(lay_out([thumbnail, *thumbnails])))


async def lay_out(thumbnails: list[Thumbnail]) -> str:
    """Do the same from one with an event loop."""
    handle = await album.submit_async(thumbnails)
    return await handle.result_async()


if __name__ == "__main__":
    main()
