"""Renews all held leases with one heartbeat, three times in a lease's length."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tq.v1.worker_service_pb2 import HeartbeatRequest, HeartbeatResult, WorkerUsage
from tq_client.errors import TqError
from tq_common.limits import HEARTBEAT_LEASES_MAX
from tq_worker.broker.calls import Broker
from tq_worker.broker.held_tasks import HeldTasks
from tq_worker.wire.lease import Lease, Stop, believed_end_s

_logger = logging.getLogger(__name__)

FIRST_S = 1.0
"""The first heartbeat is early, to report the worker's usage."""
RETRY = 1 / 8
"""The part of the interval after which a heartbeat that failed is repeated."""

_Status = HeartbeatResult.Status


class Heartbeats:
    """Sends heartbeats, and applies the answers to the held tasks."""

    def __init__(
        self,
        *,
        worker_id: str,
        broker: Broker,
        held_tasks: HeldTasks,
        lease_s: float,
        usage: Callable[[], WorkerUsage],
    ) -> None:
        """``usage`` returns the worker's usage, which each heartbeat carries."""
        self._worker_id = worker_id
        self._usage = usage
        self._broker = broker
        self._held_tasks = held_tasks
        self._interval_s = lease_s / 3
        self._failing = False

    async def run(self) -> None:
        """Renew until cancelled."""
        pause_s = min(FIRST_S, self._interval_s)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = self._interval_s if await self.beat() else self._interval_s * RETRY

    async def beat(self) -> bool:
        """Renew everything once; False if some of it must be tried again."""
        leases = list(self._held_tasks.held.values())
        try:
            # A heartbeat without leases still reports the worker's usage.
            for at in range(0, max(1, len(leases)), HEARTBEAT_LEASES_MAX):
                await self._renew(leases[at : at + HEARTBEAT_LEASES_MAX])
        except TqError as error:
            if leases and not self._failing:
                _logger.warning(
                    "leases cannot be renewed", extra={"leases": len(leases), "error": str(error)}
                )
            self._failing |= bool(leases)
            return not leases
        if self._failing:
            _logger.info("leases are renewed again")
        self._failing = False
        return True

    async def _renew(self, leases: Sequence[Lease]) -> None:
        request = HeartbeatRequest(worker_id=self._worker_id, usage=self._usage())
        for lease in leases:
            request.leases.add(task_id=lease.task_id, token=lease.token)
        answer = await self._broker.heartbeat(request, timeout_s=self._interval_s)
        renewed: dict[float, list[Lease]] = {}
        cancelled = []
        for lease, result in zip(leases, answer.reply.results, strict=True):
            match result.status:
                case _Status.STATUS_RENEWED | _Status.STATUS_CANCEL_REQUESTED:
                    lease.length_s = result.lease.ToMilliseconds() / 1000
                    until_s = believed_end_s(answer.sent_at_s, 0.0, lease.length_s)
                    renewed.setdefault(until_s, []).append(lease)
                    if result.status is _Status.STATUS_CANCEL_REQUESTED:
                        cancelled.append(lease)
                case _Status.STATUS_LEASE_LOST:
                    # Once the attempt has ended, this stops nothing: the answer to its report
                    # says whether it was recorded.
                    self._held_tasks.stop(lease, Stop.LEASE_LOST)
                case _:
                    _logger.error("heartbeat was not understood", extra={"task_id": lease.task_id})
        for until_s, group in renewed.items():
            self._held_tasks.renewed(group, until_s)
        for lease in cancelled:
            self._held_tasks.stop(lease, Stop.CANCELLED)
