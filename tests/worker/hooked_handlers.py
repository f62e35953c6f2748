"""Handlers with hooks that record their calls, and one hook that is broken.

The label "facts" of a task names the file.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from tq_worker import (
    Outcome,
    PermanentError,
    TaskContext,
    after_task,
    before_task,
    current_task,
    on_dead,
    on_failure,
    task,
)

RAN = Counter("hooked_runs", "Handlers that ran.", ["how"])
LAST = Gauge("hooked_last", "Of a process: it ends with it.", multiprocess_mode="livemax")
SECONDS = Histogram("hooked_seconds", "Made up.", buckets=[1, 10])


def note(context: TaskContext, line: str) -> None:
    with Path(context.labels["facts"]).open("a") as file:
        file.write(line + "\n")


@before_task
def before(context: TaskContext) -> None:
    note(context, f"before {context.attempt}")


@after_task
async def after(context: TaskContext, outcome: Outcome) -> None:
    await asyncio.sleep(0)
    note(context, f"after {outcome}")


@on_failure
async def failure(context: TaskContext, error: BaseException) -> None:
    await asyncio.sleep(0)
    note(context, f"failure {type(error).__name__}: {error}")


@on_dead
def dead(context: TaskContext, error: BaseException) -> None:
    note(context, f"dead {type(error).__name__}")


@before_task
@after_task
async def cancels_itself(_context: TaskContext, _outcome: Outcome | None = None) -> None:
    raise asyncio.CancelledError


@before_task
@after_task
def broken(context: TaskContext, _outcome: Outcome | None = None) -> None:
    raise OSError(f"the hook of {context.task_id}")


def act(payload: bytes, context: TaskContext, how: str) -> object:
    assert current_task() is context
    RAN.labels(how).inc()
    LAST.set(7)
    SECONDS.observe(2)
    if payload == b"fail":
        raise ValueError("as asked")
    if payload == b"permanent":
        raise PermanentError("as asked")
    return {} if payload == b"misfit" else b"done"


@task("hooked")
def hooked(payload: bytes, context: TaskContext) -> bytes:
    if payload == b"slow":
        context.cancelled.wait_blocking()
        context.raise_if_cancelled()
    return act(payload, context, "thread")  # type: ignore[return-value]  # a misfit on purpose


@task("hooked-async")
async def hooked_async(payload: bytes, context: TaskContext) -> bytes:
    if payload == b"slow":
        await asyncio.Event().wait()
    return act(payload, context, "async")  # type: ignore[return-value]  # as above


@task("hooked-solo", execution="process")
def hooked_solo(payload: bytes, context: TaskContext) -> bytes:
    return act(payload, context, "process")  # type: ignore[return-value]  # as above
