"""Typed handlers that do not always do as they say."""

from __future__ import annotations

from tq_worker import TaskContext, task


@task("add", queue="q", retries=1)
def add(a: int, b: int = 1) -> int:
    if a < 0:
        raise OSError(f"attempt with {a}")
    return a + b


@task(queue="q")
async def place(context: TaskContext, key: bytes) -> tuple[str, bytes]:
    return context.queue, key


@task("wrong", queue="q", retries=0)
def wrong() -> int:
    return "not a number"  # type: ignore[return-value]  # on purpose
