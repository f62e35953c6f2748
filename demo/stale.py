"""A worker that falls silent, loses its task to another, and reports it nevertheless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos.clients.client import StubClient
from chaos.clients.worker import StubWorker
from chaos.history.calls import Ending, ReportStatus
from chaos.history.record import Ledger
from tq.v1 import task_pb2, worker_service_pb2

QUEUE = "stale"
LEASE_S = 1.0


@dataclass(slots=True)
class StaleWorker:
    """Claims before a leader is killed, reports after its lease has passed to another worker."""

    addresses: Sequence[str]
    ledger: Ledger
    sent: int = 0
    refused: int = 0
    kept: int = 0
    """Tasks that ended with the result of the worker that held them."""
    _silent: StubWorker = field(init=False)
    _heir: StubWorker = field(init=False)
    _client: StubClient = field(init=False)
    _held: list[worker_service_pb2.ClaimedTask] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._silent = StubWorker(self.addresses, self.ledger, "silent", QUEUE, lease_s=LEASE_S)
        self._heir = StubWorker(self.addresses, self.ledger, "heir", QUEUE, lease_s=30)
        self._client = StubClient(self.addresses, self.ledger, "stale")

    async def claim(self) -> None:
        """Submit a task, claim it under a short lease, and fall silent."""
        await self._client.submit([task_pb2.TaskSpec(queue=QUEUE, type="stale")])
        self._held.append(await self._silent.claim_one(within_s=10))

    async def report_late(self) -> None:
        """Let another worker claim the expired tasks; report with the old, then the new tokens.

        The heir's claim is answered only once the leader has ended the first lease.
        """
        for task in self._held:
            task_id = task.spec.task_id
            inherited = await self._heir.claim_one(within_s=30)
            assert inherited.spec.task_id == task_id
            late = await self._silent.report(task_id, task.token, Ending.COMPLETE, b"stale")
            self.sent += 1
            self.refused += late.status == ReportStatus.STATUS_LEASE_LOST
            await self._heir.report(task_id, inherited.token, Ending.COMPLETE, b"right")
            read = await self._client.read(task_id)
            self.kept += read is not None and read.result == b"right"
        self._held.clear()

    async def close(self) -> None:
        """Close every connection."""
        for caller in (self._silent, self._heir, self._client):
            await caller.close()
