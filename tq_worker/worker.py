"""The worker: claims tasks, runs and reports them, renews leases, and ends in order."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tq.v1.worker_service_pb2 import ReportResult, TaskReport
from tq_common.clock import boottime_s
from tq_worker.api.errors import UsageError
from tq_worker.broker.calls import Broker
from tq_worker.broker.claim_groups import claim_groups, problem
from tq_worker.broker.claimer import WAIT_S, Claims, Dependencies
from tq_worker.broker.heartbeats import Heartbeats
from tq_worker.broker.held_tasks import STOP_GRACE_S, UNFIT_FOR_S, HeldTasks
from tq_worker.broker.liveness import Liveness
from tq_worker.broker.reporter import Reporter
from tq_worker.broker.slot_fairness import SlotFairness
from tq_worker.broker.watchdog import LEAVE_S, LoopGuard, Watchdog, die_soon
from tq_worker.pool import orphans
from tq_worker.pool.pool import Plan, Pool
from tq_worker.pool.reload import Changes
from tq_worker.status.status import WorkerStatus
from tq_worker.status.usage import Usage
from tq_worker.telemetry import tracing
from tq_worker.telemetry.stats import Stats
from tq_worker.wire.lease import Stop

_logger = logging.getLogger(__name__)

CHECK_MAX_S = 0.25
CHECKS_PER_LEASE = 120
"""How often leases are checked in their length: at least twice between the moments to stop and to
kill a handler.
"""
HURRY_GRACE_S = 0.5
"""How long handlers may take to stop when the worker must leave at once."""
RELIEVE_S = 1.0
"""How often the memory of handler processes is checked."""
LAST_REPORTS_S = 10.0
"""How long a leaving worker tries to deliver its last reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of one worker."""

    worker_id: str
    modules: Sequence[str]
    queues: Sequence[str]
    concurrency: int
    processes: int = 1
    process_slots: int = 1
    limits: Mapping[str, int] = field(default_factory=dict)
    """By type, how many tasks run at a time; they override the handlers' own limits."""
    tasks_max: int | None = None
    memory_bytes_max: int | None = None
    lease_s: float = 30.0
    drain_timeout_s: float = 60.0
    deaf_after_s: float = 60.0
    unfit_for_s: float = UNFIT_FOR_S
    reload: bool = False
    metrics_listen: tuple[str, int] | None = None
    log_format: str = "text"
    """The format of log lines, "text" or "json"."""
    telling: tracing.Telling = field(default_factory=tracing.Telling)

    def plan(self) -> Plan:
        """Return the pool's part of the options."""
        return Plan(
            modules=self.modules,
            concurrency=self.concurrency,
            processes=self.processes,
            process_slots=self.process_slots,
            tasks_max=self.tasks_max,
            memory_bytes_max=self.memory_bytes_max,
            log_format=self.log_format,
        )


class Leaving(enum.Enum):
    """How a worker ends."""

    DRAIN = enum.auto()
    """Let running handlers finish, up to the drain timeout."""
    AT_ONCE = enum.auto()
    """Stop running handlers and give their tasks back."""


class Worker:
    """A worker on one event loop; the loop's signal handlers may call `leave`."""

    def __init__(
        self,
        options: WorkerOptions,
        broker: Broker,
        reconnect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``reconnect`` makes ``broker`` use new connections; without it there is no watchdog."""
        self.made_ns = time.time_ns()
        self._options = options
        self._stats = Stats()
        self._liveness = Liveness(asyncio.get_running_loop().time)
        self._reconnect = reconnect
        self._reporter = Reporter(
            worker_id=options.worker_id, broker=broker, answered=self._answered
        )
        self._tracing = tracing.set_up(options.telling, os.environ)
        self._held_tasks = HeldTasks(
            concurrency=options.concurrency,
            reports=self._reporter,
            stats=self._stats,
            tracing=self._tracing,
            # A developer who changes handlers wants to see how each attempt ends.
            log_ends=options.telling.log_tasks or options.reload,
            unfit_for_s=options.unfit_for_s,
        )
        self._pool = Pool(plan=options.plan(), owner=self._held_tasks, stats=self._stats)
        self._status = WorkerStatus(
            stats=self._stats,
            usage=Usage(),
            liveness=self._liveness,
            held_tasks=self._held_tasks,
            pool=self._pool,
            reporter=self._reporter,
        )
        self._parts = Dependencies(
            worker_id=options.worker_id,
            queues=options.queues,
            lease_s=options.lease_s,
            # Well below the time after which silent brokers are given up.
            wait_s=min(WAIT_S, options.deaf_after_s / 3),
            broker=broker,
            held_tasks=self._held_tasks,
            pool=self._pool,
            reports=self._reporter,
            liveness=self._liveness,
            fairness=SlotFairness(asyncio.get_running_loop().time),
            stats=self._stats,
        )
        self._heartbeats = Heartbeats(
            worker_id=options.worker_id,
            broker=broker,
            held_tasks=self._held_tasks,
            lease_s=options.lease_s,
            usage=self._status.said,
        )
        self._leave = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reloaded = asyncio.Event()
        self.deaf = ""
        """Why the worker gave up on its brokers; empty if it did not."""

    def leave(self, how: Leaving = Leaving.DRAIN) -> None:
        """End the worker: in order, or at once if called a second time."""
        if how is Leaving.AT_ONCE or self._leave.is_set():
            self._hurry.set()
        self._leave.set()

    async def run(self) -> int:
        """Work until `leave` is called; returns how many reports could not be delivered.

        Raises UsageError if the handlers cannot be loaded or the metrics cannot be served.
        """
        guard = LoopGuard(self._options.deaf_after_s)
        guard.start()
        try:
            stop_metrics = await self._serve_metrics()
            try:
                if await self._start():
                    await self._work()
            finally:
                await self._pool.close()
                stop_metrics()
        finally:
            guard.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        undelivered = self._reporter.backlog()
        _logger.log(
            logging.ERROR if undelivered else logging.INFO,
            "worker ends",
            extra={"undelivered_reports": undelivered},
        )
        return undelivered

    def sources(self) -> Sequence[str]:
        """Return the handlers' source files, including those that failed to load."""
        return self._pool.sources

    async def _serve_metrics(self) -> Callable[[], None]:
        listen = self._options.metrics_listen
        if listen is None:
            return lambda: None
        # Only if it is wanted: it imports some MB.
        from tq_worker.status import metrics  # noqa: PLC0415

        host, port = listen
        try:
            return await metrics.serve(self._status, host, port)
        except OSError as error:
            problem = f"metrics cannot be served at {host}:{port}: {error.strerror}"
            raise UsageError([f"--metrics-listen: {problem}"]) from None

    async def _start(self) -> bool:
        """Load the handlers; False if `leave` is called meanwhile."""
        loading = asyncio.ensure_future(self._pool.start())
        leaving = asyncio.ensure_future(self._leave.wait())
        try:
            await asyncio.wait([loading, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        if not loading.done():
            loading.cancel()
            return False
        await loading
        options = self._options
        if (fault := problem(self._pool.handlers, options.limits)) is not None:
            raise UsageError([fault])
        return True

    async def _say_ready(self) -> None:
        """Log that the worker is ready, once a broker has answered: until then it is not."""
        await self._liveness.first.wait()
        options = self._options
        _logger.info(
            "worker ready",
            extra={
                "worker_id": options.worker_id,
                "queues": list(options.queues),
                "types": sorted(self._pool.handlers),
                "concurrency": options.concurrency,
                "processes": options.processes,
                "process_slots": self._pool.slots(solo=True),
            },
        )

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._reporter.run(), name="reports"),
                group.create_task(self._heartbeats.run(), name="heartbeats"),
                group.create_task(self._check_leases(), name="leases"),
                group.create_task(self._relieve_large(), name="memory"),
                group.create_task(self._status.usage.run(), name="usage"),
                group.create_task(self._say_ready(), name="ready"),
            ]
            if orphans.is_last_parent():
                reaping = orphans.reap(self._pool.children)
                background.append(group.create_task(reaping, name="orphans"))
            if self._reconnect is not None:
                watchdog = Watchdog(
                    liveness=self._liveness,
                    deaf_after_s=self._options.deaf_after_s,
                    reconnect=self._connect_anew,
                    give_up=self._give_up,
                )
                background.append(group.create_task(watchdog.run(), name="watchdog"))
            if self._options.reload:
                background.append(group.create_task(self._watch_files(), name="reload"))
            claims = group.create_task(self._claim(), name="claims")
            await self._leave.wait()
            claims.cancel()
            await asyncio.wait([claims])
            await self._drain()
            for each in background:
                each.cancel()

    async def _drain(self) -> None:
        options = self._options
        _logger.info(
            "worker drains",
            extra={"tasks": len(self._held_tasks.held), "timeout_s": options.drain_timeout_s},
        )
        self._pool.give_back()
        await self._until_idle(options.drain_timeout_s, unless=self._hurry)
        for lease in list(self._held_tasks.held.values()):
            self._held_tasks.stop(lease, Stop.SHUTDOWN)
        if self._hurry.is_set():
            await self._until_idle(HURRY_GRACE_S)
        else:
            await self._until_idle(STOP_GRACE_S, unless=self._hurry)
        for process in self._pool.everyone():
            if process.outstanding:
                process.kill(Stop.SHUTDOWN.value)
        await self._until_idle(None)
        try:
            async with asyncio.timeout(LAST_REPORTS_S):
                await self._reporter.delivered()
        except TimeoutError:
            return  # `run` returns how many are left

    async def _until_idle(
        self, timeout_s: float | None, unless: asyncio.Event | None = None
    ) -> None:
        """Return once no process has a task, after the timeout, or once ``unless`` is set."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._idle())]
        if unless is not None:
            waits.append(asyncio.ensure_future(unless.wait()))
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _idle(self) -> None:
        while any(lease.process is not None for lease in self._held_tasks.held.values()):
            await self._held_tasks.change()

    async def _claim(self) -> None:
        """Claim tasks of the types that have handlers, until cancelled."""
        while True:
            self._reloaded.clear()
            wanted = claim_groups(self._pool.handlers, self._options.limits)
            loops = [asyncio.ensure_future(Claims(self._parts, each).run()) for each in wanted]
            reloaded = asyncio.ensure_future(self._reloaded.wait())
            try:
                await asyncio.wait([*loops, reloaded], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in (*loops, reloaded):
                    each.cancel()
                await asyncio.wait([*loops, reloaded])
            for each in loops:
                if not each.cancelled():
                    each.result()  # raises what ended it: a loop has no other end

    async def _watch_files(self) -> None:
        changes = Changes(self.sources, self.made_ns)
        while True:
            changed = await changes.next()
            _logger.info("files have changed: handlers are loaded anew", extra={"files": changed})
            try:
                await self._pool.reload()
            except UsageError as error:
                _logger.error(  # noqa: TRY400 - the cause is in the text
                    "new handlers cannot be used, the old ones go on until the next change",
                    extra={"problems": error.problems},
                )
                continue
            self._reloaded.set()
            _logger.info("new handlers are used", extra={"types": sorted(self._pool.handlers)})

    async def _relieve_large(self) -> None:
        while True:
            await asyncio.sleep(RELIEVE_S)
            self._pool.relieve_large()

    async def _connect_anew(self) -> None:
        self._stats.reconnects += 1
        assert self._reconnect is not None, "or nobody watches"
        await self._reconnect()

    def _give_up(self, why: str) -> None:
        """Leave at once; reports that cannot be delivered by then are dropped."""
        _logger.critical("worker gives up", extra={"why": why})
        self.deaf = why
        die_soon(LEAVE_S)
        self.leave(Leaving.AT_ONCE)

    async def _check_leases(self) -> None:
        interval_s = min(CHECK_MAX_S, self._options.lease_s / CHECKS_PER_LEASE)
        while True:
            await asyncio.sleep(interval_s if self._held_tasks.held else CHECK_MAX_S)
            now_s = boottime_s()
            self._held_tasks.check(now_s)
            if self._pool.give_back_stuck(now_s):
                self._held_tasks.slow_down()

    def _answered(self, report: TaskReport, status: ReportResult.Status.ValueType) -> None:
        self._held_tasks.reported(report, status)
