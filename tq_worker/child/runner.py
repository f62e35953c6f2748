"""Inside a handler process: starts attempts in order, up to the number of slots at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING

from tq.v1.worker_service_pb2 import ClaimedTask, TaskReport
from tq_common.clock import boottime_s
from tq_worker.api import signatures, typed
from tq_worker.api.context import RUNNING, TaskContext
from tq_worker.api.errors import PermanentError, Snooze
from tq_worker.api.hooks import HOOKS, Ended, Outcome, call_async, call_in_thread, calls_of
from tq_worker.api.registry import Handler, Registry
from tq_worker.child.outbox import Outbox
from tq_worker.telemetry.events import What
from tq_worker.wire import task_reports
from tq_worker.wire.lease import EXIT_BEFORE, Stop
from tq_worker.wire.progress import Progress

if TYPE_CHECKING:
    from tq_worker.telemetry.spans import AttemptSpan, Tracing

_logger = logging.getLogger("tq_worker.runner")  # the name that docs/worker.md gives

FLUSH_REPORTS = 64
FLUSH_S = 0.003

NOT_STARTED = "not started"
STOPPED = "stopped"

_OURS = (__file__, str(typed.__file__), str(signatures.__file__))
"""The files between the loop and a handler, whose frames are left out of tracebacks."""


class Attempt:
    """One task that was handed in, until its report."""

    __slots__ = (
        "_margin_s",
        "begun",
        "claimed",
        "context",
        "done",
        "last_s",
        "lease_until_s",
        "started_s",
        "stop",
        "task",
        "task_id",
        "token",
    )

    def __init__(self, claimed: ClaimedTask, lease_until_s: float) -> None:
        self.claimed = claimed
        self.token = claimed.token
        self.task_id = claimed.spec.task_id
        self.lease_until_s = lease_until_s
        self._margin_s = claimed.lease.ToMilliseconds() / 1000 * EXIT_BEFORE
        self.last_s = lease_until_s - self._margin_s
        """When its handler must have stopped; the parent should have stopped it a moment before."""
        self.context: TaskContext | None = None
        """Set from the moment its handler may run."""
        self.started_s = 0.0
        """When its handler was started, by the monotonic clock."""
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """The first line of an async handler's task has run, so that cancelling it is noticed."""
        self.stop = ""
        """Why it must stop; empty while it need not."""
        self.done = False

    def renew(self, lease_until_s: float) -> None:
        self.lease_until_s = lease_until_s
        self.last_s = lease_until_s - self._margin_s
        if self.context is not None:
            self.context.extend(lease_until_s)


class Runner:
    """Starts attempts in order as slots become free.

    All its methods belong to the event loop's thread.
    """

    def __init__(
        self,
        *,
        slots: int,
        handlers: Registry,
        outbox: Outbox,
        progress: Progress,
        ended: Callable[[int], object],
        tracing: Tracing | None = None,
        log_tasks: bool = False,
    ) -> None:
        """``ended`` is called with the token of each attempt that is over, in any thread."""
        self._tracing = tracing
        self._log_tasks = log_tasks
        self._slots = slots
        self._handlers = handlers
        self._outbox = outbox
        self._progress = progress
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="handler")
        self._queue: deque[Attempt] = deque()
        self._busy = 0
        self._flush_at: asyncio.TimerHandle | None = None
        self._leaving = False
        self.idle = asyncio.Event()
        """Set once nothing runs any more after `leave`."""

    def take(self, attempts: Iterable[Attempt]) -> None:
        """Queue attempts behind those that wait."""
        self._queue.extend(attempts)
        self._start_ready()
        self._flush_soon()

    def stop(self, attempt: Attempt) -> None:
        """Stop an attempt whose ``stop`` has been set."""
        if attempt.done:
            return
        if attempt.context is None:
            # Its place in the queue stays, as progress counts places.
            self._finish(
                attempt, task_reports.released(attempt.task_id, attempt.token, NOT_STARTED)
            )
            self._flush()
            return
        attempt.context.cancelled.set(attempt.stop)
        if attempt.task is not None and attempt.begun:
            attempt.task.cancel(attempt.stop)

    def give_back(self) -> None:
        """Release the attempts that have not started."""
        waiting, self._queue = self._queue, deque()
        self._progress.advance(len(waiting))
        for attempt in waiting:
            if not attempt.done:
                self._finish(
                    attempt, task_reports.released(attempt.task_id, attempt.token, NOT_STARTED)
                )
        self._flush()

    def leave(self) -> None:
        """Set ``idle`` once nothing runs."""
        self._leaving = True
        self._check_idle()

    def close(self) -> None:
        """Wait for the threads; nothing runs in them once ``idle`` is set."""
        self._threads.shutdown()

    def _start_ready(self) -> None:
        while self._queue and self._busy < self._slots:
            attempt = self._queue.popleft()
            # Before the handler is entered: it may take the process down with it.
            self._progress.advance(1)
            if attempt.done:
                continue
            if attempt.stop or boottime_s() >= attempt.last_s:
                self._finish(
                    attempt, task_reports.released(attempt.task_id, attempt.token, NOT_STARTED)
                )
                continue
            handler = self._handlers.get(attempt.claimed.spec.type)
            if handler is None:
                self._finish(attempt, self._unknown(attempt))
                continue
            self._start(attempt, handler)

    def _start(self, attempt: Attempt, handler: Handler) -> None:
        self._busy += 1
        attempt.started_s = time.monotonic()
        attempt.context = TaskContext(attempt.claimed, attempt.lease_until_s)
        if attempt.claimed.spec.HasField("timeout"):
            self._outbox.started(attempt.token)
        if handler.is_async:
            attempt.task = self._loop.create_task(self._run_async(attempt, handler))
        else:
            # In a context of its own, so that one attempt's context does not leak into the next.
            self._threads.submit(copy_context().run, self._run_in_thread, attempt, handler)

    async def _run_async(self, attempt: Attempt, handler: Handler) -> None:
        attempt.begun = True
        span = self._begin(attempt)
        error: BaseException | None = None
        try:
            if attempt.stop:
                raise asyncio.CancelledError(attempt.stop)  # noqa: TRY301 - ends as if cancelled a moment later
            if HOOKS.before_task:
                await call_async([(hook, (attempt.context,)) for hook in HOOKS.before_task])
            value = await handler.function(  # type: ignore[misc]  # is_async says it can be awaited
                attempt.claimed.spec.payload,
                attempt.context,  # type: ignore[arg-type]  # set by _start
            )
            report = _returned(attempt, value)
        except BaseException as raised:  # noqa: BLE001 - user code: whatever it raises is its attempt's end
            error = raised
            report = self._ended_by(attempt, error, span)
        self._end_copy(error)
        ended = _ended(attempt, report, error)
        self._tell(ended, report)
        try:
            await call_async(calls_of(ended))
        except asyncio.CancelledError:
            _logger.warning("hooks were cut short: %s", attempt.stop)
        del ended, error  # their traceback refers to this frame
        if span is not None:
            self._end_span(span, report, attempt, handler)
        self._busy -= 1
        self._finish(attempt, report)
        self._start_ready()
        self._flush_soon()

    def _run_in_thread(self, attempt: Attempt, handler: Handler) -> None:
        span = self._begin(attempt)
        error: BaseException | None = None
        try:
            context = attempt.context
            assert context is not None, "set by _start"
            context.raise_if_cancelled()
            if HOOKS.before_task:
                call_in_thread([(hook, (context,)) for hook in HOOKS.before_task], self._loop)
            value = handler.function(attempt.claimed.spec.payload, context)
            report = _returned(attempt, value)
        except BaseException as raised:  # noqa: BLE001 - as above
            error = raised
            report = self._ended_by(attempt, error, span)
        self._end_copy(error)
        ended = _ended(attempt, report, error)
        self._tell(ended, report)
        call_in_thread(calls_of(ended), self._loop)
        del ended, error  # as above
        if span is not None:
            self._end_span(span, report, attempt, handler)
        self._finish(attempt, report)
        # Do not wait for the loop with this result: another handler may block it.
        if not self._queue:
            self._outbox.flush()
        self._loop.call_soon_threadsafe(self._thread_freed)

    def _thread_freed(self) -> None:
        self._busy -= 1
        self._start_ready()
        self._flush_soon()

    def _begin(self, attempt: Attempt) -> AttemptSpan | None:
        """Make the attempt and its trace the current ones for logs and spans."""
        claimed = attempt.claimed
        RUNNING.set(attempt.context)
        span = None if self._tracing is None else self._tracing.begin(claimed)
        if self._log_tasks:
            facts = {
                "task_id": attempt.task_id,
                "queue": claimed.spec.queue,
                "type": claimed.spec.type,
                "attempt": claimed.attempt,
                "token": attempt.token,
            }
            _logger.info(What.STARTED.value, extra=facts)
        return span

    def _end_copy(self, error: BaseException | None) -> None:
        """End the process if it is a copy that the handler made by `os.fork`.

        The task belongs to the original process, which reports it.
        """
        if os.getpid() == self._pid:
            return
        code: object = error.code if isinstance(error, SystemExit) else error
        if isinstance(code, BaseException):
            traceback.print_exception(code)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code if isinstance(code, int) else code is not None)

    def _end_span(
        self, span: AttemptSpan, report: TaskReport, attempt: Attempt, handler: Handler
    ) -> None:
        _told_of(lambda: span.end(report))
        if attempt.stop and handler.execution == "process" and self._tracing is not None:
            # Its process ends with the attempt.
            _told_of(self._tracing.flush)

    def _tell(self, ended: Ended, report: TaskReport) -> None:
        """Log a failure in this process, so that its `logging` handlers get the traceback.

        A final failure is logged as an error, any other as a warning. The parent logs the failures
        that it detects itself. What a stopped handler raises is not a failure.
        """
        if not report.HasField("fail") or ended.context.cancelled.reason:
            return
        error = ended.error
        told = None
        if error is not None and error.__traceback__ is not None:
            told = (type(error), error, task_reports.skip(error.__traceback__, _OURS))
        facts = {"token": report.token, "error": report.fail.error.partition("\n")[0]}
        level = logging.ERROR if ended.dead else logging.WARNING
        _told_of(lambda: _logger.log(level, What.FAILED.value, extra=facts, exc_info=told))

    def _ended_by(
        self, attempt: Attempt, error: BaseException, span: AttemptSpan | None
    ) -> TaskReport:
        if attempt.stop and issubclass(type(error), asyncio.CancelledError):
            return task_reports.released(attempt.task_id, attempt.token, STOPPED)
        if span is not None and not issubclass(type(error), Snooze):
            _told_of(lambda: span.failed(error))
        return task_reports.raised(attempt.task_id, attempt.token, error, skip_files=_OURS)

    def _unknown(self, attempt: Attempt) -> TaskReport:
        known = ", ".join(self._handlers.task_types())
        error = f"no handler for type {attempt.claimed.spec.type!r} in this worker; it has: {known}"
        return task_reports.unfit(attempt.task_id, attempt.token, error)

    def _finish(self, attempt: Attempt, report: TaskReport) -> None:
        attempt.done = True
        self._ended(attempt.token)
        ran_s = time.monotonic() - attempt.started_s if attempt.started_s else 0.0
        self._outbox.add(report, max(1, int(ran_s * 1e6)) if attempt.started_s else 0)

    def _flush_soon(self) -> None:
        """Send reports in batches while attempts wait, else at once."""
        if self._busy == 0 or not self._queue or len(self._outbox) >= FLUSH_REPORTS:
            self._flush()
        elif self._flush_at is None:
            self._flush_at = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._flush_at is not None:
            self._flush_at.cancel()
            self._flush_at = None
        self._outbox.flush()
        self._check_idle()

    def _check_idle(self) -> None:
        if self._leaving and not self._busy and not self._queue:
            self.idle.set()


def _returned(attempt: Attempt, value: object) -> TaskReport:
    assert attempt.context is not None, "it was begun"
    return task_reports.returned(attempt.task_id, attempt.token, value, attempt.context.submits)


def _ended(attempt: Attempt, report: TaskReport, error: BaseException | None) -> Ended:
    context = attempt.context
    assert context is not None, "it was begun"
    if attempt.stop == Stop.TIMED_OUT.value:
        # The parent reports a failure, however the handler ended.
        late = TimeoutError(Stop.TIMED_OUT.value)
        return Ended(context, Outcome.FAILED, late, context.is_last_attempt)
    if report.HasField("complete"):
        return Ended(context, Outcome.COMPLETED, None, dead=False)
    if attempt.stop or not report.HasField("fail"):
        return Ended(context, Outcome.RELEASED, None, dead=False)
    dead = report.fail.permanent or context.is_last_attempt
    return Ended(context, Outcome.FAILED, error or PermanentError(report.fail.error), dead)


def _told_of(tell: Callable[[], object]) -> None:
    """Log or trace an attempt; an exception that cannot be shown must not cost the report."""
    try:
        tell()
    except BaseException:  # noqa: BLE001 - user code: what an exception does when it is looked at
        _logger.warning("not all of an attempt can be told")
