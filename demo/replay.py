"""Submit the trace at its own pace, sped up, and collect the outcome of each request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from demo import work
from demo.handlers import TASK_TYPE
from demo.trace import Trace
from tq_client import AsyncClient, Task, TqError

QUEUE = "trace"
WAITERS = 48
ANSWER_WITHIN_S = 120.0


@dataclass(slots=True)
class Replay:
    """The local record: what was acknowledged, and what the brokers returned as finished."""

    client: AsyncClient
    trace: Trace
    speed: float
    """How much faster than it was recorded the trace is replayed."""
    acknowledged: dict[str, int] = field(default_factory=dict)
    """Task id to request number."""
    finished: dict[str, Task] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    started_s: float = 0.0

    @property
    def length_s(self) -> float:
        """How long the replay takes."""
        return self.trace.span_s / self.speed

    async def run(self) -> None:
        """Submit every request at its time; return once each is finished, or was given up."""
        loop = asyncio.get_running_loop()
        self.started_s = loop.time()
        to_wait_for: asyncio.Queue[str | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            for _ in range(WAITERS):
                group.create_task(self._gather(to_wait_for))
            async with asyncio.TaskGroup() as submits:
                for request in self.trace.requests:
                    due_s = self.started_s + request.at_s / self.speed
                    if due_s > loop.time():
                        await asyncio.sleep(due_s - loop.time())
                    body = work.payload(request)
                    submits.create_task(self._submit(request.number, body, to_wait_for))
            for _ in range(WAITERS):
                to_wait_for.put_nowait(None)

    async def _submit(
        self, number: int, body: bytes, to_wait_for: asyncio.Queue[str | None]
    ) -> None:
        try:
            task_id = await self.client.submit(
                QUEUE, TASK_TYPE, body, labels={"request": str(number)}, timeout_s=ANSWER_WITHIN_S
            )
        except TqError as error:
            self.failures.append(f"request {number} was not submitted: {error}")
            return
        self.acknowledged[task_id] = number
        to_wait_for.put_nowait(task_id)

    async def _gather(self, to_wait_for: asyncio.Queue[str | None]) -> None:
        while (task_id := await to_wait_for.get()) is not None:
            try:
                self.finished[task_id] = await self.client.wait(task_id, timeout_s=ANSWER_WITHIN_S)
            except (TqError, TimeoutError) as error:
                self.failures.append(f"task {task_id} did not finish: {error}")
