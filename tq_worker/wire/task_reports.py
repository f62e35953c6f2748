"""Makes the reports that say how attempts ended."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Collection, Sequence
from datetime import timedelta
from types import TracebackType

from tq.v1.task_pb2 import TaskSpec
from tq.v1.worker_service_pb2 import TaskReport
from tq_client.dependencies import moved
from tq_common.limits import (
    COMPLETION_TASKS_MAX,
    ERROR_BYTES_MAX,
    PAUSE_S_MAX,
    PAYLOAD_BYTES_MAX,
    RETRY_AFTER_S_MAX,
)
from tq_worker.api.context import Result
from tq_worker.api.errors import PermanentError, RetryableError, Snooze, UnfitTaskError

UNFIT_PAUSE_S = 15.0
"""How long a task waits for a worker that can run it, before it is offered again."""

_CUT = "\n... (cut) ...\n"


def returned(
    task_id: str, token: int, value: object, submits: Sequence[TaskSpec] = ()
) -> TaskReport:
    """Report a completion with the handler's result, which also ``submits`` tasks.

    If the result cannot be stored, reports a permanent failure: the handler has done its work, and
    would return the same again.
    """
    try:
        return _completion(task_id, token, value, submits)
    except BaseException as error:  # noqa: BLE001 - user code: whatever a value does when it is looked at
        return failed(task_id, token, f"the result does not fit: {_head(error)}", permanent=True)


def raised(
    task_id: str, token: int, error: BaseException, skip_files: Collection[str] = ()
) -> TaskReport:
    """Report the exception that a handler raised; never raises, even for a broken exception.

    Frames of ``skip_files`` at the head of the traceback are left out.
    """
    if issubclass(type(error), UnfitTaskError):
        return unfit(task_id, token, _head(error))
    if issubclass(type(error), Snooze):
        return _snoozed(task_id, token, error)
    report = TaskReport(task_id=task_id, token=token)
    report.fail.permanent = issubclass(type(error), PermanentError)
    text = describe(error, skip_files)
    if issubclass(type(error), RetryableError):
        try:
            retry_after_ms = _retry_after_ms(error)
        except BaseException as broken:  # noqa: BLE001 - user code: an attribute may be anything
            text = shorten(f"{text}\n(its retry_after_s is not used: {_head(broken)})")
        else:
            if retry_after_ms is not None:
                report.fail.retry_after.FromMilliseconds(retry_after_ms)
    report.fail.error = text
    return report


def failed(task_id: str, token: int, error: str, *, permanent: bool = False) -> TaskReport:
    """Report a failure that the worker itself detected; it is retried unless ``permanent``."""
    report = TaskReport(task_id=task_id, token=token)
    report.fail.error = shorten(error)
    report.fail.permanent = permanent
    return report


def released(task_id: str, token: int, reason: str) -> TaskReport:
    """Give the task back; the attempt is not counted."""
    report = TaskReport(task_id=task_id, token=token)
    report.release.reason = reason
    return report


def unfit(task_id: str, token: int, reason: str) -> TaskReport:
    """Give back, for a while, a task that this worker cannot run and another may.

    The worker sets when it is to be given up.
    """
    report = released(task_id, token, shorten(reason))
    report.release.pause.FromMilliseconds(round(UNFIT_PAUSE_S * 1000))
    report.release.give_up_after.SetInParent()
    return report


def is_unfit(report: TaskReport) -> bool:
    """Whether a report is one of `unfit`."""
    return report.release.HasField("give_up_after")


def _snoozed(task_id: str, token: int, error: BaseException) -> TaskReport:
    """Give a task back until its delay has passed; if that cannot be read, the attempt failed."""
    try:
        delay_ms = _delay_ms(error)
    except BaseException as broken:  # noqa: BLE001 - user code: an attribute may be anything
        return failed(task_id, token, f"{_head(error)}\n(its delay is not used: {_head(broken)})")
    report = released(task_id, token, shorten(_head(error)))
    report.release.pause.FromMilliseconds(delay_ms)
    return report


def describe(error: BaseException, skip_files: Collection[str] = ()) -> str:
    """Describe an exception: "Type: message", then the traceback."""
    head = _head(error)
    trace = skip(error.__traceback__, skip_files)
    if trace is None:
        return shorten(head)
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except BaseException as broken:  # noqa: BLE001 - user code: an exception that cannot be printed
        lines = [f"(its traceback cannot be had: {type(broken).__name__})"]
    return shorten(head + "\n" + "".join(lines).rstrip())


def skip(trace: TracebackType | None, skip_files: Collection[str]) -> TracebackType | None:
    """Leave out frames of these files at the head of a traceback."""
    while trace is not None and trace.tb_frame.f_code.co_filename in skip_files:
        trace = trace.tb_next
    return trace


def shorten(text: str) -> str:
    """Cut the middle out of a long error: its head says what, its tail says where."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= ERROR_BYTES_MAX:
        return encoded.decode()
    head_bytes = ERROR_BYTES_MAX // 4
    tail_bytes = ERROR_BYTES_MAX - head_bytes - len(_CUT)
    head = encoded[:head_bytes].decode("utf-8", "ignore")
    tail = encoded[-tail_bytes:].decode("utf-8", "ignore")
    return head + _CUT + tail


def _completion(task_id: str, token: int, value: object, submits: Sequence[TaskSpec]) -> TaskReport:
    report = TaskReport(task_id=task_id, token=token)
    report.complete.SetInParent()
    report.complete.submit.extend(submits)
    if value is None:
        return report
    body: object = value.body if isinstance(value, Result) else value
    if inspect.iscoroutine(body):
        body.close()
        raise TypeError("the handler returned a coroutine, which nobody has awaited: make it async")
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(
            f"the handler returned {type(body).__name__}; it must return bytes, Result or None"
        )
    size = memoryview(body).nbytes
    if size > PAYLOAD_BYTES_MAX:
        raise ValueError(f"it has {size:,} bytes; at most {PAYLOAD_BYTES_MAX:,} are taken")
    report.complete.result = bytes(body)
    if isinstance(value, Result):
        report.complete.content_type = value.content_type
        report.complete.submit.extend(moved(value.submit, len(submits)))
    if len(report.complete.submit) > COMPLETION_TASKS_MAX:
        count, most = len(report.complete.submit), COMPLETION_TASKS_MAX
        raise ValueError(f"it submits {count} tasks; at most {most} are taken")
    return report


def _retry_after_ms(error: BaseException) -> int | None:
    seconds: object = getattr(error, "retry_after_s", None)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"it is {type(seconds).__name__}, not a number of seconds")
    if not 0 <= seconds <= RETRY_AFTER_S_MAX:
        raise ValueError(f"{seconds!r} is not from 0 to {RETRY_AFTER_S_MAX // 86_400} days")
    return round(seconds * 1000)


def _delay_ms(error: BaseException) -> int:
    delay: object = getattr(error, "delay", None)
    if not isinstance(delay, timedelta):
        raise TypeError(f"it is {type(delay).__name__}, not a timedelta")
    if not timedelta() < delay <= timedelta(seconds=PAUSE_S_MAX):
        raise ValueError(f"{delay} is not more than 0 and up to {PAUSE_S_MAX // 3_600} hours")
    return max(1, round(delay.total_seconds() * 1000))


def _head(error: BaseException) -> str:
    try:
        message = str(error)
    except BaseException as broken:  # noqa: BLE001 - user code: an exception whose __str__ raises
        message = f"(its message cannot be had: {type(broken).__name__})"
    return f"{type(error).__name__}: {message}"
