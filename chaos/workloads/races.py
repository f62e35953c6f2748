"""F21: operators' calls race workers' reports: cancel, pause, purge, redrive, delete.

Its tasks add no promise of their own: I1 to I8 judge what the calls did to them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from chaos.clients.operator import StubOperator
from chaos.clients.worker import Plan, StubWorker
from chaos.cluster.stubs import seconds
from chaos.context import RunContext
from chaos.history.calls import Ending
from chaos.nemeses.kill import KillLeader
from chaos.scenario import Scenario
from chaos.workloads.background import Background
from tq.v1 import task_pb2

QUEUE = "races"
NEWEST = 12
SUBMIT_EVERY_S = 0.08
ACT_EVERY_S = 0.06
PAUSED_S = 0.3


class Races(Background):
    """Tasks that fail, are retried, given up, redriven, cancelled and purged as they go."""

    name = "races"

    def __init__(self) -> None:
        super().__init__()
        self._ids: list[str] = []
        self._pace: list[asyncio.Task[None]] = []
        self._operator: StubOperator

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        await super().start(context, addresses, seed)
        draw = random.Random(seed)
        self._operator = self.take(StubOperator(addresses, context.ledger, "operator"))
        for number in (1, 2):
            name = f"races-{number}"
            worker = StubWorker(addresses, context.ledger, name, QUEUE, lease_s=2.0, tasks_max=4)
            self.go_on(self.take(worker).run())
        self._pace = [self.begin(self._submit(draw)), self.begin(self._act(draw))]

    async def settle(self) -> None:
        for task in self._pace:
            await self.stop(task)
        await self._operator.pause(QUEUE, paused=False)

    async def _submit(self, draw: random.Random) -> None:
        for number in range(1_000_000):
            plan = draw.choice(
                (
                    Plan(work_s=draw.uniform(0.0, 0.3)),
                    Plan(work_s=draw.uniform(0.0, 0.3), first_attempt_ends=Ending.FAIL),
                    Plan(first_attempt_ends=Ending.FAIL, permanent=True),
                    Plan(first_attempt_ends=Ending.RELEASE),
                    Plan(first_attempt_ends=Ending.PAUSE),
                )
            )
            spec = task_pb2.TaskSpec(
                queue=QUEUE,
                type="planned",
                payload=plan.payload(f"race {number}"),
                max_attempts=draw.choice((1, 2, 20)),
                retry_policy=task_pb2.RetryPolicy(initial_backoff=seconds(0.1)),
            )
            self._ids += [task_id for task_id in await self.client.submit([spec]) if task_id]
            await asyncio.sleep(SUBMIT_EVERY_S)

    async def _act(self, draw: random.Random) -> None:
        acts = ("cancel", "redrive", "delete", "read", "redrive all", "purge", "pause")
        weights = (30, 14, 4, 30, 3, 1, 2)
        while True:
            await asyncio.sleep(ACT_EVERY_S)
            if not self._ids:
                continue
            task_id = draw.choice(self._ids[-NEWEST:])
            [act] = draw.choices(acts, weights)
            match act:
                case "cancel":
                    await self._operator.cancel(task_id)
                case "redrive":
                    await self._operator.redrive(task_id)
                case "delete":
                    await self._operator.delete(task_id)
                case "read":
                    await self.client.read(task_id)
                case "redrive all":
                    await self._operator.redrive_all(QUEUE)
                case "purge":
                    await self._operator.purge(QUEUE)
                case _:
                    await self._operator.pause(QUEUE, paused=True)
                    await asyncio.sleep(PAUSED_S)
                    await self._operator.pause(QUEUE, paused=False)


SCENARIOS = (
    Scenario(
        name="races",
        summary="cancels, pauses, purges and redrives race with workers while leaders die",
        nemeses=(KillLeader,),
        workloads=(Races,),
        duration_s=5,
        more_faults=("F21",),
    ),
)
