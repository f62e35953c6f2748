"""The worker: claims tasks and runs handlers under their leases.

    from tq_worker import PermanentError, TaskContext, task

    @task("thumbnail")
    async def thumbnail(payload: bytes, context: TaskContext) -> bytes:
        ...

    $ tq-worker run --handlers shop.images --queues images --concurrency 20 --processes 2

A typed function is submitted with the arguments of a call, which are sent as JSON (see
docs/worker.md):

    @task(queue="images", retries=4)
    def resize(path: str, size: int = 100) -> Size:
        ...

    size: Size = resize.submit("a.png", size=200).result()

What an attempt can count on:

- A handler runs in a process that the worker starts for handlers; nothing it does there keeps
  leases from being renewed. `--concurrency` handlers run at a time, spread over `--processes`.
  Async handlers share their process's event loop, sync ones get a thread each. One with
  `execution="process"` has a process to itself: if that process dies, no other task is affected.
- The returned value is the task's result; a `Result` also carries a content type, and tasks that
  are created if and only if this completion is recorded. `PermanentError` makes the task a dead
  letter; `Snooze` runs it again later, and is no failure.
  Any other exception is a failure that is retried; so are a timeout and a process that died (every
  handler that had started in it fails with it).
- Tasks of a type that this worker has no handler for are left to other workers. A task whose
  payload does not fit its handler is given back for a while, as by `UnfitTaskError`; after
  `--unfit-for` it becomes a dead letter.
- When a handler must stop (its task was cancelled, its timeout or its lease is over, the worker
  shuts down), `context.cancelled` is set and an async handler is cancelled; a sync handler must
  check `context.cancelled`. A handler that has not stopped 5 s later, 1 s after its lease was lost,
  or shortly before its lease ends, is killed together with its process; the other tasks of that
  process are given back, not failed.
- So a handler has stopped before another worker can have its task, unless clocks are off by more
  than 1 % in rate. Its earlier writes to other systems remain: pass `context.token` with each write
  and have the other system refuse lower tokens.
"""

from tq_worker.api.context import Cancellation, Result, TaskContext, current_task
from tq_worker.api.decorator import task
from tq_worker.api.errors import (
    PermanentError,
    RetryableError,
    Snooze,
    TaskCancelledError,
    TaskFailedError,
    UnfitTaskError,
)
from tq_worker.api.hooks import Outcome, after_task, before_task, on_dead, on_failure
from tq_worker.api.typed import Handle, TypedTask
from tq_worker.telemetry.logs import TaskLogFilter

__all__ = [
    "Cancellation",
    "Handle",
    "Outcome",
    "PermanentError",
    "Result",
    "RetryableError",
    "Snooze",
    "TaskCancelledError",
    "TaskContext",
    "TaskFailedError",
    "TaskLogFilter",
    "TypedTask",
    "UnfitTaskError",
    "after_task",
    "before_task",
    "current_task",
    "on_dead",
    "on_failure",
    "task",
]
