"""How an attempt ended, as the report that says so."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from types import TracebackType

from tq.v1.worker_service_pb2 import TaskReport
from tq_worker.context import Result
from tq_worker.errors import PermanentError, RetryableError

ERROR_BYTES_MAX = 8 * 1024
"""What the queue keeps of an error (proto/tq/v1/worker_service.proto, Failure)."""

_CUT = "\n... (cut) ...\n"


def returned(task_id: str, token: int, value: object) -> TaskReport:
    """Report what the handler returned: a completion, if it can be stored, or a failure."""
    report = TaskReport(task_id=task_id, token=token)
    if value is None:
        report.complete.SetInParent()
        return report
    body: object = value.body if isinstance(value, Result) else value
    if not isinstance(body, bytes | bytearray | memoryview):
        return failed(
            task_id,
            token,
            f"TypeError: the handler returned {type(body).__name__}; "
            "it must return bytes, Result or None",
        )
    report.complete.result = bytes(body)
    if isinstance(value, Result):
        report.complete.content_type = value.content_type
        report.complete.submit.extend(value.submit)
    return report


def raised(
    task_id: str, token: int, error: BaseException, skip_files: Collection[str] = ()
) -> TaskReport:
    """Report what the handler raised.

    Frames of ``skip_files`` at the traceback's head are left out.
    """
    report = TaskReport(task_id=task_id, token=token)
    report.fail.error = describe(error, skip_files)
    report.fail.permanent = isinstance(error, PermanentError)
    if isinstance(error, RetryableError) and error.retry_after_s is not None:
        report.fail.retry_after.FromMilliseconds(round(error.retry_after_s * 1000))
    return report


def failed(task_id: str, token: int, error: str) -> TaskReport:
    """Report a failure that the worker itself found; it will be retried."""
    report = TaskReport(task_id=task_id, token=token)
    report.fail.error = shorten(error)
    return report


def released(task_id: str, token: int, reason: str) -> TaskReport:
    """Give the task back; the attempt is not counted."""
    report = TaskReport(task_id=task_id, token=token)
    report.release.reason = reason
    return report


def describe(error: BaseException, skip_files: Collection[str] = ()) -> str:
    """Say what was raised: "Type: message" first, then where."""
    head = f"{type(error).__name__}: {_text(error)}"
    trace = _skip(error.__traceback__, skip_files)
    if trace is None:
        return shorten(head)
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except Exception as broken:  # noqa: BLE001 - user code: an exception that cannot be printed
        lines = [f"(its traceback cannot be had: {type(broken).__name__})"]
    return shorten(head + "\n" + "".join(lines).rstrip())


def shorten(text: str) -> str:
    """Cut the middle out of a text that is too long: its head says what, its tail says where."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= ERROR_BYTES_MAX:
        return encoded.decode()
    head_bytes = ERROR_BYTES_MAX // 4
    tail_bytes = ERROR_BYTES_MAX - head_bytes - len(_CUT)
    head = encoded[:head_bytes].decode("utf-8", "ignore")
    tail = encoded[-tail_bytes:].decode("utf-8", "ignore")
    return head + _CUT + tail


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - user code: an exception whose __str__ raises
        return f"(its message cannot be had: {type(broken).__name__})"


def _skip(trace: TracebackType | None, skip_files: Collection[str]) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename in skip_files:
        trace = trace.tb_next
    return trace
