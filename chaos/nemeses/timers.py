"""F22: the leader dies at the moment at which tasks become due."""

from __future__ import annotations

import asyncio
import random

from google.protobuf.timestamp_pb2 import Timestamp

from chaos.clients.client import StubClient
from chaos.clients.worker import Plan, StubWorker, work_result
from chaos.context import Injected, RunContext
from chaos.history.calls import Ending
from chaos.nemeses.nemesis import Nemesis
from tq.v1 import task_pb2

QUEUE = "timers"
RETRIED, SCHEDULED = 10, 10
DUE_IN_S = 1.5
AROUND_S = 0.15
WITHIN_S = 30.0


class DueAsLeaderDies(Nemesis):
    """The retries and run_at times of many tasks fall on the instant of the leader's death."""

    name = "due-as-leader-dies"
    faults = ("F22",)
    summary = "retry timers and scheduled tasks come due as the leader dies"
    hold_s = (0.2, 0.8)
    alone = True

    def __init__(self) -> None:
        self._down: list[str] = []

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        ledger, addresses = context.ledger, context.addresses
        client = StubClient(addresses, ledger, "timers-client")
        worker = StubWorker(addresses, ledger, "timers-1", QUEUE, lease_s=WITHIN_S)
        try:
            due_s = ledger.now_s() + DUE_IN_S
            ids = await client.submit([_spec(f"retried {draw.random()}") for _ in range(RETRIED)])
            claimed = [await worker.claim_one(WITHIN_S) for _ in range(RETRIED)]
            for task in claimed:
                after_s = max(0.0, due_s - ledger.now_s())
                await worker.report(
                    task.spec.task_id, task.token, Ending.FAIL, retry_after_s=after_s
                )
            run_at = Timestamp()
            run_at.GetCurrentTime()
            run_at.FromNanoseconds(
                run_at.ToNanoseconds() + int(max(0.0, due_s - ledger.now_s()) * 1e9)
            )
            ids += await client.submit(
                [_spec(f"scheduled {draw.random()}", run_at) for _ in range(SCHEDULED)]
            )
            leader = (await context.cluster.await_leader(self.within_s)).node_id
            until_s = due_s + draw.uniform(-AROUND_S, AROUND_S)
            await asyncio.sleep(max(0.0, until_s - ledger.now_s()))
            self._down = [leader]
            await context.cluster.crash(leader)
            await self._work_off(context, worker, {task_id for task_id in ids if task_id})
            await self._count_attempts(context, client, ids[:RETRIED], 2)
            await self._count_attempts(context, client, ids[RETRIED:], 1)
        finally:
            for caller in (client, worker):
                await caller.close()
        return Injected("killed as timers came due", (leader,))

    async def _work_off(self, context: RunContext, worker: StubWorker, ids: set[str]) -> None:
        """Claim each task once and complete it; the same task twice would be a broken promise."""
        left = set(ids)
        while left:
            task = await worker.claim_one(WITHIN_S)
            task_id = task.spec.task_id
            if task_id not in left:
                context.accuse("F22", f"task {task_id} came due twice")
            left.discard(task_id)
            await worker.report(task_id, task.token, Ending.COMPLETE, work_result(task.spec))

    async def _count_attempts(
        self, context: RunContext, client: StubClient, ids: list[str | None], attempts: int
    ) -> None:
        for task_id in ids:
            task = await client.read(task_id or "")
            made = len(task.attempts) if task else 0
            # A claim whose answer was lost is an attempt that was given back, and does not count.
            given_back = (
                sum(one.end == task_pb2.Attempt.END_RELEASED for one in task.attempts)
                if task
                else 0
            )
            if made - given_back != attempts:
                context.accuse("F22", f"task {task_id} was attempted {made} times, not {attempts}")

    async def heal(self, context: RunContext) -> None:
        down, self._down = self._down, []
        await context.cluster.revive(*down)


def _spec(salt: str, run_at: Timestamp | None = None) -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(
        queue=QUEUE, type="planned", payload=Plan().payload(salt), max_attempts=5, run_at=run_at
    )
