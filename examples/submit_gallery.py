"""Make an album of small copies: a task for each image, one that needs them all, and a last one.

Usage: python submit_gallery.py IMAGES ALBUM
"""

from __future__ import annotations

import sys
from pathlib import Path

from gallery import build_index, clean_up, shrink

from tq_client import After, Client
from tq_worker import TaskFailedError


def main(images: Path, album: Path) -> None:
    """Submit all of it in one call, and print what comes back."""
    work = album.with_suffix(".work")
    tasks = [shrink.spec(each, work) for each in sorted(images.glob("*.ppm"))]
    # Positions in the list: the index is built once all copies are made.
    tasks.append(build_index.options(depends_on=range(len(tasks))).spec(work, album))
    # The last one waits for all of them, however they end: none may still write to the folder.
    ended = [After(position, "ended") for position in range(len(tasks))]
    tasks.append(clean_up.options(depends_on=ended).spec(work))

    with Client() as client:
        *_, index, cleaning = client.submit_together(tasks)
        try:
            count = build_index.options(client=client).handle(index).result()
            print(f"{count} images in {album.name}")
        except TaskFailedError as error:
            print(f"no album: {error}")
        clean_up.options(client=client).handle(cleaning).result()
        print(f"{work.name} is {'still there' if work.exists() else 'removed'}")


if __name__ == "__main__":
    main(*(Path(argument).absolute() for argument in sys.argv[1:]))
