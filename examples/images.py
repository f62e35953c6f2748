"""Typed tasks: `tq-worker run --handlers images --queues images` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from tq_worker import PermanentError, TaskContext, task


@dataclass(frozen=True)
class Thumbnail:
    """Where it was put, and its pixels."""

    path: str
    width: int
    height: int


@task("resize", queue="images", retries=4, timeout=timedelta(minutes=1))
def resize(path: str, size: int = 100) -> Thumbnail:
    """Make a thumbnail; a sync function runs in a thread."""
    if not path.endswith(".png"):
        raise PermanentError(f"{path}: not a PNG")
    return Thumbnail(f"{path.removesuffix('.png')}.{size}.png", size, size * 3 // 4)


@task("album", queue="images")
async def album(context: TaskContext, thumbnails: list[Thumbnail]) -> str:
    """Lay thumbnails out; callers do not pass the context."""
    names = ", ".join(each.path for each in thumbnails)
    return f"attempt {context.attempt}: {names}"
