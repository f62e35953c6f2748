"""F20: payloads and results around multiples of 64 KiB, and at the limit.

It runs in the scenario of ``poison``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chaos.clients.client import StubClient
from chaos.clients.worker import ECHO, Plan, StubWorker
from chaos.context import RunContext
from chaos.workloads.background import Background
from tq.v1 import task_pb2

QUEUE = "sizes"
ROW = 64 << 10
LIMIT = 10 << 20
SIZES = (
    *(rows * ROW + more for rows in (1, 2, 5) for more in (-1, 0, 1)),
    LIMIT // 2,
    LIMIT,
)
TOO_LARGE = LIMIT + 1
SEND_S = 15.0
"""Ten mebibytes take a while on a busy machine."""


class Sizes(Background):
    """One task of each size, echoed, and one too large by a byte."""

    name = "sizes"
    promise = "a payload of up to 10 MiB comes back as it was; one of a byte more is refused"

    def __init__(self) -> None:
        super().__init__()
        self._expected: dict[str, int] = {}
        self._refused: list[str | None] = []
        self._submitting: asyncio.Task[None]

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        await super().start(context, addresses, seed)
        ledger = context.ledger
        sender = self.take(StubClient(addresses, ledger, "sizes-sender", send_s=SEND_S))
        worker = StubWorker(
            addresses, ledger, "sizes-1", QUEUE, lease_s=20, tasks_max=1, send_s=SEND_S
        )
        self.go_on(self.take(worker).run())
        self._submitting = self.begin(self._submit(sender))

    async def settle(self) -> None:
        await self._submitting

    async def judge(self, context: RunContext) -> None:
        if any(self._refused):
            context.accuse("limits", f"a payload of {TOO_LARGE} bytes was taken: {self._refused}")
        if len(self._expected) != len(SIZES):
            context.accuse("limits", f"of payloads of {SIZES} bytes {self._expected} were taken")
        for task_id, size in self._expected.items():
            task = await self.client.read(task_id)
            if task is None or len(task.result) != size or task.result != task.spec.payload:
                context.accuse("I5", f"task {task_id}: its {size} bytes did not come back")

    async def _submit(self, sender: StubClient) -> None:
        for size in SIZES:
            [task_id] = await sender.submit([_spec(size)])
            if task_id is not None:
                self._expected[task_id] = size
        self._refused = await sender.submit([_spec(TOO_LARGE)])


def _spec(size: int) -> task_pb2.TaskSpec:
    payload = Plan().payload(f"{size} ").ljust(size, b"x")
    return task_pb2.TaskSpec(queue=QUEUE, type=ECHO, payload=payload, max_attempts=50)
