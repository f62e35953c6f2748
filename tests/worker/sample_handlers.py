"""Handlers that misbehave on purpose.

The payload names a file into which each handler writes its progress.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

from tq_common.clock import boottime_s
from tq_worker import PermanentError, Result, RetryableError, Snooze, TaskContext, task


def note(payload: bytes, line: str) -> None:
    """Write a line into the file that the payload names, in one piece."""
    with Path(payload.decode()).open("a") as file:
        file.write(line + "\n")


@task("until-cancelled")
async def until_cancelled(payload: bytes, context: TaskContext) -> None:
    note(payload, "started")
    try:
        await asyncio.Event().wait()
    finally:
        note(payload, f"stopped: {context.cancelled.reason}")
        if boottime_s() < context.lease_until_s:
            note(payload, "stopped in time")


@task("until-cancelled-sync")
def until_cancelled_sync(payload: bytes, context: TaskContext) -> None:
    note(payload, "started")
    context.cancelled.wait_blocking()
    note(payload, f"stopped: {context.cancelled.reason}")
    context.raise_if_cancelled()


@task("until-file")
async def until_file(payload: bytes, _context: TaskContext) -> bytes:
    """Finish once a file beside the facts file exists."""
    note(payload, "started")
    path = Path(payload.decode() + ".go")
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - the test is another process
        await asyncio.sleep(0.005)
    return b"went"


@task("stubborn")
def stubborn(payload: bytes, _context: TaskContext) -> None:
    """A sync handler that never checks whether it is cancelled."""
    note(payload, "started")
    while True:
        time.sleep(1)


@task("stubborn-async")
async def stubborn_async(payload: bytes, _context: TaskContext) -> None:
    note(payload, "started")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note(payload, "ignored")


@task("hog")
async def hog(payload: bytes, _context: TaskContext) -> bytes:
    """Hold the interpreter for seconds, in one C call after the other, on the event loop."""
    note(payload, "started")
    started_s = time.monotonic()
    while time.monotonic() - started_s < 3:
        re.match(r"(a+)+$", "a" * 22 + "b")
    note(payload, "hogged")
    return b"done"


@task("hog-forever")
def hog_forever(payload: bytes, _context: TaskContext) -> None:
    """Hold the interpreter in one C call that takes longer than any test waits."""
    note(payload, "started")
    re.match(r"(a+)+$", "a" * 100 + "b")


@task("segfault")
async def segfault(payload: bytes, _context: TaskContext) -> None:
    note(payload, "started")
    os.kill(os.getpid(), signal.SIGSEGV)


@task("exit")
def exit_now(_payload: bytes, _context: TaskContext) -> None:
    os._exit(7)


@task("sys-exit")
async def sys_exit(_payload: bytes, _context: TaskContext) -> None:
    sys.exit("leaving")


@task("permanent")
async def permanent(_payload: bytes, _context: TaskContext) -> None:
    raise PermanentError("never")


@task("retry-after")
async def retry_after(_payload: bytes, context: TaskContext) -> bytes:
    if context.attempt == 1:
        raise RetryableError("later", retry_after_s=7.5)
    return b"ok"


@task("snooze")
def snooze(_payload: bytes, context: TaskContext) -> bytes:
    if not _snoozed:
        _snoozed.append(context.task_id)
        raise Snooze(7.5, "not ready")
    return b"%d" % context.attempt


_snoozed: list[str] = []


@task("flaky")
def flaky(_payload: bytes, context: TaskContext) -> bytes:
    if context.attempt < 3:
        raise OSError(f"attempt {context.attempt}")
    return b"third"


@task("wrong-return")
async def wrong_return(_payload: bytes, _context: TaskContext) -> dict[str, str]:
    return {}


@task("wrong-result")
async def wrong_result(_payload: bytes, _context: TaskContext) -> Result:
    return Result("text")  # type: ignore[arg-type]  # what is wrong is the point


@task("wrong-retry-after")
async def wrong_retry_after(_payload: bytes, _context: TaskContext) -> None:
    raise RetryableError("soon", retry_after_s=float("nan"))


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


@task("unprintable")
def unprintable(_payload: bytes, _context: TaskContext) -> None:
    raise UnprintableError


@task("cancel-itself")
async def cancel_itself(_payload: bytes, _context: TaskContext) -> None:
    raise asyncio.CancelledError


@task("log")
async def log(_payload: bytes, context: TaskContext) -> None:
    logging.getLogger("my.handlers").info("seen", extra={"task_id": context.task_id})


@task("log-plainly")
async def log_plainly(_payload: bytes, _context: TaskContext) -> None:
    logging.getLogger("my.handlers").info("plain")


@task("log-plainly-in-thread")
def log_plainly_in_thread(_payload: bytes, _context: TaskContext) -> None:
    logging.getLogger("my.handlers").info("plain")


@task("flaky-for-ever")
def flaky_for_ever(_payload: bytes, _context: TaskContext) -> None:
    raise OSError("first line\nsecond line")


@task("long-error")
async def long_error(_payload: bytes, _context: TaskContext) -> None:
    raise ValueError("x" * 100_000)


@task("result")
async def result(_payload: bytes, _context: TaskContext) -> Result:
    return Result(b"{}", content_type="application/json")


@task("describe")
def describe(payload: bytes, context: TaskContext) -> bytes:
    """Return every field of the context."""
    facts = {
        "payload": payload.decode(),
        "task_id": context.task_id,
        "queue": context.queue,
        "type": context.type,
        "attempt": context.attempt,
        "max_attempts": context.max_attempts,
        "is_last_attempt": context.is_last_attempt,
        "priority": context.priority,
        "submitted_at": context.submitted_at.isoformat(),
        "token": context.token,
        "labels": dict(context.labels),
        "content_type": context.content_type,
        "traceparent": context.traceparent,
        "has_deadline": context.deadline_s is not None,
        "lease_ahead": context.lease_until_s > time.clock_gettime(time.CLOCK_BOOTTIME),
        "cancelled": context.cancelled.is_set(),
    }
    return json.dumps(facts).encode()


@task("pid")
async def pid(_payload: bytes, _context: TaskContext) -> bytes:
    return str(os.getpid()).encode()


@task("big")
async def big(payload: bytes, _context: TaskContext) -> bytes:
    return b"x" * int(payload)


@task("finish-anyway")
def finish_anyway(payload: bytes, context: TaskContext) -> bytes:
    note(payload, "started")
    context.cancelled.wait_blocking()
    return b"finished"


@task("stubborn-ticking")
def stubborn_ticking(payload: bytes, context: TaskContext) -> None:
    """Never stop, and write how much of the lease is left at every moment."""
    note(payload, "started")
    while True:
        note(payload, f"left {context.lease_until_s - boottime_s():.3f}")
        time.sleep(0.02)


@task("tally")
async def tally(payload: bytes, context: TaskContext) -> None:
    note(payload, context.task_id)


class ThrottledError(RetryableError):
    """Lacks the attributes that its base class sets."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds


class LaterError(RetryableError):
    """Has a ``retry_after_s`` that is a string."""

    def __init__(self) -> None:
        super().__init__("later")
        self.retry_after_s = "30"  # type: ignore[assignment]


class LeavingError(Exception):
    """Ends the program when it is printed."""

    def __str__(self) -> str:
        raise SystemExit(7)


@task("throttled")
async def throttled(_payload: bytes, _context: TaskContext) -> None:
    raise ThrottledError(3)


@task("throttled-in-thread")
def throttled_in_thread(_payload: bytes, _context: TaskContext) -> None:
    raise ThrottledError(3)


@task("later")
def later(_payload: bytes, _context: TaskContext) -> None:
    raise LaterError


@task("leaving")
async def leaving(_payload: bytes, _context: TaskContext) -> None:
    raise LeavingError
