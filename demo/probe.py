"""A steady writer through generated stubs; its acknowledgements measure write outages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chaos.clients.client import StubClient
from chaos.history.calls import Answer, SubmitCall
from chaos.history.outages import Outage, outage
from chaos.history.record import Ledger
from tq.v1 import task_pb2

QUEUE = "probe"
ACTOR = "probe"
WRITE_EVERY_S = 0.01
ANSWER_WITHIN_S = 60.0


class Probe:
    """Submits one small task every 10 ms, without waiting for earlier answers."""

    def __init__(self, addresses: Sequence[str], ledger: Ledger) -> None:
        self._ledger = ledger
        self._client = StubClient(addresses, ledger, ACTOR)
        self._writes: dict[int, tuple[float, float | None]] = {}
        """When each write was first sent, and when it was answered."""

    async def run(self) -> None:
        """Write until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._write())
                due_s += WRITE_EVERY_S
                await asyncio.sleep(max(0.0, due_s - loop.time()))

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    def acknowledged(self) -> frozenset[str]:
        """The ids of all tasks whose submit was acknowledged to this writer."""
        return frozenset(
            task_id
            for call in self._ledger.calls
            if isinstance(call, SubmitCall)
            and call.actor == ACTOR
            and call.answer is Answer.APPLIED
            for task_id in call.task_ids
            if task_id is not None
        )

    def slowest_s(self, slice_s: float, slices: int) -> list[float]:
        """The latency of the slowest write sent in each of the last slices of time.

        A write that still waits counts with how long it has waited so far.
        """
        now_s = self._ledger.now_s()
        slowest = [0.0] * slices
        for sent_s, done_s in reversed(self._writes.values()):
            index = slices - 1 - int((now_s - sent_s) / slice_s)
            if index < 0:
                break
            slowest[index] = max(slowest[index], (done_s or now_s) - sent_s)
        return slowest

    async def await_outage(self, fault_s: float, within_s: float) -> Outage:
        """Wait until a write that was sent after the fault is acknowledged; return the outage."""
        async with asyncio.timeout(within_s):
            while True:
                measured = outage(self._ledger, fault_s)
                if measured is not None:
                    return measured
                await asyncio.sleep(WRITE_EVERY_S)

    async def _write(self) -> None:
        number, sent_s = len(self._writes), self._ledger.now_s()
        self._writes[number] = (sent_s, None)
        spec = task_pb2.TaskSpec(queue=QUEUE, type="probe")
        await self._client.submit([spec], within_s=ANSWER_WITHIN_S)
        self._writes[number] = (sent_s, self._ledger.now_s())
