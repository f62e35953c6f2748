"""Typed handlers, some of which do not keep to their types."""

from __future__ import annotations

from tq_worker import Result, TaskContext, task


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


@task("measure", queue="q", retries=0)
def measure(context: TaskContext, word: str) -> Result[int]:
    """Submit two more tasks, if and only if this one completes."""
    context.submit_on_success(add.spec(len(word)))
    if word == "fail":
        raise OSError("after all")
    return Result(len(word), submit=[add.options(task_id="own", if_exists="keep").spec(1)])


@task("measure-async", queue="q")
async def measure_async(word: str) -> int | Result[int]:
    return Result(len(word)) if word else 0
