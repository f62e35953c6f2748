"""The errors that handlers raise, and those that the worker raises itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from tq.v1 import task_pb2
from tq_client.model import Task
from tq_client.specs import Span, span
from tq_common.limits import PAUSE_S_MAX, RETRY_AFTER_S_MAX


class PermanentError(Exception):
    """This task can never succeed: make it a dead letter now, without a retry."""


class UnfitTaskError(Exception):
    """This worker's version cannot run this task, but another may: give it back for a while.

    The worker raises it itself for a payload that does not fit its function. The attempt is not
    counted. A task that stays unfit for longer than the worker's --unfit-for becomes a dead letter.
    """


class RetryableError(Exception):
    """This attempt failed; try again.

    ``retry_after_s``, 0 to 7 days, overrides the retry policy's backoff. An exception that is
    none of those in this module is retried too, after the policy's backoff.
    """

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        if retry_after_s is not None and not 0 <= retry_after_s <= RETRY_AFTER_S_MAX:
            most = RETRY_AFTER_S_MAX // 86_400
            raise ValueError(f"retry_after_s: {retry_after_s!r} is not from 0 to {most} days")
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Snooze(Exception):  # noqa: N818  # it is no error
    """Not yet: run this task again after ``delay``, more than 0 and up to 24 hours.

    The attempt is not counted and is no failure; the task's history shows ``reason``. A task may be
    snoozed any number of times; its ``expire_at`` still holds.
    """

    def __init__(self, delay: Span, reason: str = "") -> None:
        """``delay``: a timedelta, or seconds; raises TypeError or ValueError for any other."""
        self.delay = span("delay", delay)
        if not timedelta() < self.delay <= timedelta(seconds=PAUSE_S_MAX):
            most = PAUSE_S_MAX // 3_600
            raise ValueError(f"delay={delay!r}: more than 0 and up to {most} hours are allowed")
        super().__init__(delay, reason)

    def __str__(self) -> str:
        return str(self.args[1]) if len(self.args) > 1 else ""


class TaskCancelledError(Exception):
    """Raised by `TaskContext.raise_if_cancelled`: the handler must stop. Do not catch it."""


class TaskFailedError(Exception):
    """Raised by `Handle.result`: the task is FAILED or CANCELLED, so it has no result.

    If it ended without having run because a task that it depends on ended otherwise, the message
    names that task, and so does ``task.ended_by``.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        """The task, with its last error and the history of its attempts."""
        text = f"task {task.task_id} ({task.type}) is {task.state}"
        why = task.dependency_note or task.last_error
        super().__init__(f"{text}: {why}" if why else text)

    def __reduce__(self) -> tuple[Callable[[bytes], TaskFailedError], tuple[bytes]]:
        return _task_failed, (self.task.message.SerializeToString(),)


class UsageError(Exception):
    """The worker cannot run as asked; ``problems`` lists every problem found."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[UsageError], tuple[list[str]]]:
        return UsageError, (self.problems,)


def _task_failed(task: bytes) -> TaskFailedError:
    return TaskFailedError(Task.of(task_pb2.Task.FromString(task)))
