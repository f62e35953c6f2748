"""The status of a worker, for its heartbeats and its metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tq.v1.worker_service_pb2 import WorkerUsage
from tq_worker.broker.held_tasks import HeldTasks
from tq_worker.broker.liveness import Liveness
from tq_worker.broker.reporter import Reporter
from tq_worker.pool.pool import Pool
from tq_worker.status.usage import Usage
from tq_worker.telemetry.stats import QueueAndType, Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """Reads a worker's parts; to be used on the event loop."""

    stats: Stats
    usage: Usage
    liveness: Liveness
    held_tasks: HeldTasks
    pool: Pool
    reporter: Reporter

    def slots(self, *, solo: bool) -> int:
        """How many tasks can run at a time."""
        return self.pool.slots(solo=solo)

    def slots_busy(self, *, solo: bool) -> int:
        """How many tasks run."""
        return sum(
            process.has_started(lease)
            for process in self.pool.everyone()
            if process.slot.solo is solo
            for lease in process.outstanding.values()
        )

    def running(self) -> Counter[QueueAndType]:
        """How many tasks run, by queue and type."""
        return Counter(
            self.stats.kind(lease.queue, lease.task_type)
            for process in self.pool.everyone()
            for lease in process.outstanding.values()
            if process.has_started(lease)
        )

    def held(self) -> int:
        """How many leases are held."""
        return len(self.held_tasks.held)

    def backlog(self) -> int:
        """How many reports wait."""
        return self.reporter.backlog()

    def processes(self) -> int:
        """How many handler processes take tasks."""
        return len(self.pool.processes())

    def said(self) -> WorkerUsage:
        """Return the usage for a heartbeat."""
        sample = self.usage.sample()
        return WorkerUsage(
            memory_bytes=sample.memory_bytes,
            cpu_cores=sample.cpu_cores,
            processes=sample.processes,
            slots=sum(self.slots(solo=solo) for solo in (False, True)),
            slots_busy=sum(self.slots_busy(solo=solo) for solo in (False, True)),
        )
