"""The worker: claims, runs, renews, reports, and leaves in order."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tq_worker import tracing
from tq_worker.broker import Broker
from tq_worker.claims import Claims
from tq_worker.clock import boottime_s
from tq_worker.custody import STOP_GRACE_S, Custody
from tq_worker.heartbeats import Heartbeats
from tq_worker.leases import Stop
from tq_worker.pool import Pool
from tq_worker.reports import Reporter

_logger = logging.getLogger(__name__)

CHECK_MAX_S = 0.25
CHECKS_PER_LEASE = 120
"""Leases are looked at so often in their length, twice between the moments to stop and to kill a
handler at least.
"""
HURRY_GRACE_S = 0.5
"""How long handlers may take to stop when the worker is to leave at once."""
LAST_REPORTS_S = 10.0
"""How long a worker that leaves tries to deliver its last reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What one worker is to do."""

    worker_id: str
    modules: Sequence[str]
    queues: Sequence[str]
    concurrency: int
    processes: int = 1
    lease_s: float = 30.0
    drain_timeout_s: float = 60.0
    log_format: str = "text"
    """Of the lines that handlers log."""
    telling: tracing.Telling = field(default_factory=tracing.Telling)


class Leaving(enum.Enum):
    """How a worker ends."""

    DRAIN = enum.auto()
    """Finish what runs, up to the drain timeout."""
    AT_ONCE = enum.auto()
    """Stop what runs and give it back."""


class Worker:
    """Made and run on one event loop; `leave` may be called from its signal handlers."""

    def __init__(self, options: WorkerOptions, broker: Broker) -> None:
        self._options = options
        self._reporter = Reporter(
            worker_id=options.worker_id, broker=broker, answered=self._answered
        )
        self._tracing = tracing.set_up(options.telling, os.environ)
        self._custody = Custody(
            concurrency=options.concurrency,
            reports=self._reporter,
            tracing=self._tracing,
            log_tasks=options.telling.log_tasks,
        )
        self._pool = Pool(
            modules=options.modules,
            concurrency=options.concurrency,
            processes=options.processes,
            log_format=options.log_format,
            owner=self._custody,
        )
        self._claims = Claims(
            worker_id=options.worker_id,
            queues=options.queues,
            lease_s=options.lease_s,
            broker=broker,
            custody=self._custody,
            pool=self._pool,
            reports=self._reporter,
        )
        self._heartbeats = Heartbeats(
            worker_id=options.worker_id,
            broker=broker,
            custody=self._custody,
            lease_s=options.lease_s,
        )
        self._leave = asyncio.Event()
        self._hurry = asyncio.Event()

    def leave(self, how: Leaving = Leaving.DRAIN) -> None:
        """End: in order, or, when asked a second time, at once."""
        if how is Leaving.AT_ONCE or self._leave.is_set():
            self._hurry.set()
        self._leave.set()

    async def run(self) -> int:
        """Work until told to leave; returns how many reports could not be delivered.

        Raises UsageError if the handlers cannot be loaded.
        """
        try:
            if await self._start():
                await self._work()
        finally:
            await self._pool.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        undelivered = self._reporter.backlog()
        _logger.log(
            logging.ERROR if undelivered else logging.INFO,
            "worker ends",
            extra={"undelivered_reports": undelivered},
        )
        return undelivered

    async def _start(self) -> bool:
        """Load the handlers; False if told to leave meanwhile."""
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
        _logger.info(
            "worker ready",
            extra={
                "worker_id": options.worker_id,
                "queues": list(options.queues),
                "types": list(self._pool.task_types),
                "concurrency": options.concurrency,
                "processes": options.processes,
            },
        )
        return True

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._reporter.run(), name="reports"),
                group.create_task(self._heartbeats.run(), name="heartbeats"),
                group.create_task(self._check_leases(), name="leases"),
            ]
            claims = group.create_task(self._claims.run(), name="claims")
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
            extra={"tasks": len(self._custody.held), "timeout_s": options.drain_timeout_s},
        )
        self._pool.give_back()
        await self._until_idle(options.drain_timeout_s, unless=self._hurry)
        for lease in list(self._custody.held.values()):
            self._custody.stop(lease, Stop.SHUTDOWN)
        if self._hurry.is_set():
            await self._until_idle(HURRY_GRACE_S)
        else:
            await self._until_idle(STOP_GRACE_S, unless=self._hurry)
        for process in self._pool.processes():
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
        while any(lease.process is not None for lease in self._custody.held.values()):
            self._custody.changed.clear()
            await self._custody.changed.wait()

    async def _check_leases(self) -> None:
        interval_s = min(CHECK_MAX_S, self._options.lease_s / CHECKS_PER_LEASE)
        while True:
            await asyncio.sleep(interval_s if self._custody.held else CHECK_MAX_S)
            now_s = boottime_s()
            self._custody.check(now_s)
            if self._pool.give_back_stuck(now_s):
                self._custody.slow_down()

    def _answered(self, token: int) -> None:
        self._custody.reported(token)
