"""Every task that this worker holds, from its claim until its report is answered."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from tq.v1.worker_service_pb2 import ClaimedTask, Release, ReportResult, TaskReport
from tq_common.clock import boottime_s
from tq_worker.broker.prefetch import Prefetch
from tq_worker.broker.report_policy import settle, settle_death
from tq_worker.pool.process import End, HandlerProcess
from tq_worker.telemetry.events import What
from tq_worker.telemetry.stats import Stats
from tq_worker.telemetry.tracing import trace_of
from tq_worker.wire import task_reports
from tq_worker.wire.lease import Lease, Runs, Stop
from tq_worker.wire.task_reports import UNFIT_PAUSE_S

if TYPE_CHECKING:
    from tq_worker.telemetry.spans import Tracing

_logger = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
"""How long a handler may take to stop after a cancellation or a timeout, before it is killed."""
LOST_GRACE_S = 1.0
"""The same after its lease was lost: another worker may hold the task."""
UNFIT_FOR_S = 600.0
"""How long unfit tasks are offered again before they become dead letters."""
UNFIT_OFFERS_MIN = 8
"""How often an unfit task is offered in that time, at least."""
WARNED_MAX = 1000
"""How many types are warned of, at most."""


_Status = ReportResult.Status
_TAKEN = frozenset(
    {_Status.STATUS_RECORDED, _Status.STATUS_ALREADY_RECORDED, _Status.STATUS_CANCELLED}
)


class Reports(Protocol):
    """What delivers reports to the brokers."""

    def add(self, report: TaskReport) -> None:
        """Have a report delivered."""


class HeldTasks:
    """Holds the leases and ensures that no handler outlives its own."""

    def __init__(
        self,
        *,
        concurrency: int,
        reports: Reports,
        stats: Stats,
        tracing: Tracing | None = None,
        log_ends: bool = False,
        unfit_for_s: float = UNFIT_FOR_S,
    ) -> None:
        self._tracing = tracing
        self._log_ends = log_ends
        self._unfit_for_s = unfit_for_s
        self._warned: set[str] = set()
        self.held: dict[int, Lease] = {}
        """By token."""
        self.unended: Counter[str] = Counter()
        """How many of the attempts have not ended, by type."""
        self._waiting: list[asyncio.Future[None]] = []
        self._prefetch = Prefetch(concurrency, boottime_s())
        self._reports = reports
        self._stats = stats

    async def change(self) -> None:
        """Return when a task has ended or there may be room for more."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def room_changed(self) -> None:
        """Wake those that wait for `change`: there may be room for more tasks."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # ---------------------------------------------------------------- answers of the brokers

    def take(
        self, tasks: Iterable[ClaimedTask], sent_at_s: float
    ) -> list[tuple[Lease, ClaimedTask]]:
        """Hold the leases granted to a claim sent at ``sent_at_s``; returns those to run."""
        fresh = []
        for claimed in tasks:
            if claimed.token not in self.held:
                lease = Lease.of(claimed, sent_at_s)
                self.held[lease.token] = lease
                self.unended[lease.task_type] += 1
                fresh.append((lease, claimed))
        return fresh

    def ahead(self) -> int:
        """How many tasks to prefetch beyond those that run."""
        return self._prefetch.ahead(boottime_s())

    def slow_down(self) -> None:
        """Prefetch nothing until tasks end fast again."""
        self._prefetch.forget(boottime_s())

    def renewed(self, leases: Sequence[Lease], until_s: float) -> None:
        """Extend these leases until ``until_s``."""
        by_process: dict[Runs, list[int]] = {}
        for lease in leases:
            lease.until_s = until_s
            if lease.process is not None:
                by_process.setdefault(lease.process, []).append(lease.token)
        for process, tokens in by_process.items():
            process.renew(tokens, until_s)

    def stop(self, lease: Lease, why: Stop) -> None:
        """Ask a handler to stop, and kill it later if it does not.

        The first reason counts, but LEASE_LOST replaces any other.
        """
        if lease.process is None:
            return
        if lease.stop is not None and why is not Stop.LEASE_LOST:
            return
        lease.stop = why
        grace_s = LOST_GRACE_S if why is Stop.LEASE_LOST else STOP_GRACE_S
        lease.kill_at_s = min(lease.kill_at_s, boottime_s() + grace_s)
        lease.process.stop(lease, why.value)
        level = logging.WARNING if why in {Stop.LEASE_LOST, Stop.LEASE_OVER} else logging.INFO
        _logger.log(level, What.STOPPED.value, extra={**_facts(lease), "why": why.value})

    def release(self, leases: Iterable[Lease], reason: str) -> None:
        """Give back tasks that were handed to no process."""
        for lease in leases:
            self._report(lease, task_reports.released(lease.task_id, lease.token, reason))

    def reported(self, report: TaskReport, status: ReportResult.Status.ValueType) -> None:
        """Forget a lease whose report was answered or refused, and count its attempt."""
        lease = self.held.pop(report.token, None)
        if lease is not None:
            self._count(lease, report, status)
            if lease.reporting is not None:
                lease.reporting.end()
        self.room_changed()

    # ---------------------------------------------------------------- events of handler processes

    def started(self, leases: Iterable[Lease]) -> None:
        """Start the timeouts of these attempts."""
        loop = asyncio.get_running_loop()
        for lease in leases:
            if lease.timeout_s is not None and lease.timer is None:
                lease.timer = loop.call_later(lease.timeout_s, self.stop, lease, Stop.TIMED_OUT)

    def ended(self, _process: HandlerProcess, ends: Iterable[End]) -> None:
        """Report how attempts ended."""
        count = 0
        for end in ends:
            count += not end.report.HasField("release")
            if end.ran_s:
                self._ran(end.lease, end.ran_s)
            report = settle(end.lease, end.report)
            self._report(end.lease, report, told=report is end.report)
        self._prefetch.ended(count, boottime_s())
        self.room_changed()

    def exited(self, process: HandlerProcess) -> None:
        """Report the tasks of a dead process: started ones failed, the rest is given back."""
        cause = process.how_it_ended()
        for lease in process.outstanding.values():
            lease.process = None
            started = process.has_started(lease)
            if started:
                self._ran(lease, None)
                if self._tracing is not None:
                    self._tracing.killed(lease, cause)
            report = settle_death(
                lease,
                started=started,
                cause=cause,
                killed=process.ended_for_a_lease(),
            )
            self._report(lease, report)
        self.room_changed()

    # ---------------------------------------------------------------- time

    def check(self, now_s: float) -> None:
        """Stop handlers whose lease runs out, and kill those that do not stop."""
        for lease in list(self.held.values()):
            process = lease.process
            if process is None:
                continue
            if lease.stop is None and lease.stop_due(now_s):
                self.stop(lease, Stop.LEASE_OVER)
            # A handler that has not started will not start: its process checks the lease, too.
            if lease.kill_due(now_s) and process.has_started(lease):
                process.kill(
                    f"the handler of task {lease.task_id} did not stop though {_reason(lease)}"
                )

    def _report(self, lease: Lease, report: TaskReport | None, *, told: bool = False) -> None:
        """Have an attempt's end reported; ``told``: its process has logged the failure itself.

        ``report`` is None if the lease was lost: then there is nothing to report.
        """
        lease.process = None
        if lease.timer is not None:
            lease.timer.cancel()
            lease.timer = None
        self.unended[lease.task_type] -= 1
        if report is None:
            self._stats.lost[self._stats.kind(lease.queue, lease.task_type)] += 1
            self.held.pop(lease.token, None)
            return
        if report.HasField("fail") and not told:
            error = report.fail.error.partition("\n")[0]
            _logger.warning(What.FAILED.value, extra={**_facts(lease), "error": error})
        elif task_reports.is_unfit(report):
            self._unfit(lease, report.release)
        if self._tracing is not None and lease.reporting is None:
            lease.reporting = self._tracing.report(lease)
        self._reports.add(report)

    def _count(
        self, lease: Lease, report: TaskReport, status: ReportResult.Status.ValueType
    ) -> None:
        """Count an attempt by the brokers' answer to its report."""
        kind = self._stats.kind(lease.queue, lease.task_type)
        if status not in _TAKEN:
            self._stats.lost[kind] += 1
        elif report.HasField("fail"):
            self._stats.failed[kind] += 1
        else:
            completed = report.HasField("complete")
            (self._stats.completed if completed else self._stats.released)[kind] += 1
            if self._log_ends:
                what = What.COMPLETED if completed else What.RELEASED
                _logger.info(what.value, extra=_facts(lease))

    def _unfit(self, lease: Lease, release: Release) -> None:
        release.give_up_after.FromMilliseconds(round(self._unfit_for_s * 1000))
        if self._unfit_for_s < UNFIT_PAUSE_S * UNFIT_OFFERS_MIN:
            pause_s = self._unfit_for_s / UNFIT_OFFERS_MIN
            release.pause.FromMilliseconds(round(pause_s * 1000))
        if lease.task_type not in self._warned and len(self._warned) < WARNED_MAX:
            self._warned.add(lease.task_type)
            why = release.reason.partition("\n")[0]
            _logger.warning(What.UNFIT.value, extra={**_facts(lease), "why": why})

    def _ran(self, lease: Lease, ran_s: float | None) -> None:
        kind = self._stats.kind(lease.queue, lease.task_type)
        self._stats.started[kind] += 1
        if ran_s is not None:
            self._stats.durations[kind].add(ran_s)


def _facts(lease: Lease) -> dict[str, object]:
    return {
        "task_id": lease.task_id,
        "queue": lease.queue,
        "type": lease.task_type,
        "attempt": lease.attempt,
        "token": lease.token,
        **trace_of(lease.traceparent),
    }


def _reason(lease: Lease) -> str:
    return lease.stop.value if lease.stop is not None else Stop.LEASE_OVER.value
