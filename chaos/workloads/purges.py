"""Queues of hundreds of tasks that are purged by one call, while leaders die.

The promise: once the call is answered, no task that waited starts any more. Fencing tokens rise
with the log, so a task that was submitted and claimed after the answer has a token above those of
all leases from before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.clients.operator import StubOperator
from chaos.clients.worker import Plan, StubWorker
from chaos.cluster.stubs import seconds
from chaos.context import RunContext
from chaos.history.facts import Facts, TaskFacts
from chaos.history.violation import Violation
from chaos.nemeses.kill import KillAll, KillLeader
from chaos.nemeses.pause import PauseLeader
from chaos.scenario import Scenario
from chaos.workloads.background import Background
from tq.v1 import task_pb2

QUEUE, MARKS = "purges", "purges-marks"
CALLS = 4
A_CALL = 100
WORK_S = 0.02
BETWEEN_S = 0.2
PROMISE = "purges"


@dataclass(frozen=True, slots=True)
class Round:
    """Tasks that were submitted before a purge began, and one submitted after its answer."""

    covered: list[str]
    mark: str


class Purges(Background):
    """Fills a queue, purges it, and fills it again."""

    name = "purges"
    promise = "once a purge at once is answered, no task that waited starts any more"

    def __init__(self) -> None:
        super().__init__()
        self._rounds: list[Round] = []
        self._pace: asyncio.Task[None]
        self._last: list[str] = []
        """Tasks submitted after the last purge."""

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        await super().start(context, addresses, seed)
        for queue, tasks_max in ((QUEUE, 2), (MARKS, 1)):
            worker = StubWorker(
                addresses, context.ledger, f"{queue}-w", queue, lease_s=2.0, tasks_max=tasks_max
            )
            self.go_on(self.take(worker).run())
        operator = self.take(StubOperator(addresses, context.ledger, "purges-operator"))
        self._pace = self.begin(self._fill_and_purge(operator, random.Random(seed)))

    async def settle(self) -> None:
        await self.stop(self._pace)
        self._last = await self._submit(QUEUE, 20)

    async def judge(self, context: RunContext) -> None:
        for task_id in self._last:
            task = await self.client.read(task_id)
            if task is None or task.state != task_pb2.TASK_STATE_COMPLETED:
                context.accuse(PROMISE, f"task {task_id} came after every purge: {task}")
        # Their attempts are part of the facts from here on.
        for task_id in {each for done in self._rounds for each in done.covered}:
            await self.client.read(task_id)

    def violations(self, facts: Facts) -> Iterator[Violation]:
        """Check that no covered task has its first token above one from after the purge."""
        for done in self._rounds:
            after = min(_tokens(facts.tasks.get(done.mark)), default=None)
            for task_id in done.covered if after is not None else ():
                first = min(_tokens(facts.tasks.get(task_id)), default=0)
                if first > (after or 0):
                    yield Violation(
                        PROMISE,
                        f"task {task_id}: started under token {first}; a purge that covers it"
                        f" was answered before token {after}",
                        task_id,
                    )

    async def _fill_and_purge(self, operator: StubOperator, draw: random.Random) -> None:
        while True:
            covered: list[str] = []
            for _ in range(CALLS):
                covered += await self._submit(QUEUE, A_CALL, draw)
            await operator.purge(QUEUE, at_once=True)
            [mark] = await self._submit(MARKS, 1)
            self._rounds.append(Round(covered, mark))
            await asyncio.sleep(BETWEEN_S)

    async def _submit(self, queue: str, many: int, draw: random.Random | None = None) -> list[str]:
        specs = [
            task_pb2.TaskSpec(
                queue=queue,
                type="planned",
                payload=Plan(work_s=WORK_S).payload(f"{queue} {number}"),
                priority=draw.choice((0, 0, 7)) if draw else 0,
                max_attempts=50,
                retry_policy=task_pb2.RetryPolicy(initial_backoff=seconds(0.1)),
            )
            for number in range(many)
        ]
        return [task_id for task_id in await self.client.submit(specs) if task_id]


def _tokens(task: TaskFacts | None) -> set[int]:
    """Return the tokens of all attempts that are known, from answers to claims and from reads."""
    if task is None:
        return set()
    reads = (read.task for read in task.reads if read.task is not None)
    return task.leases.keys() | {attempt.token for read in reads for attempt in read.attempts}


SCENARIOS = (
    Scenario(
        name="purges",
        summary="queues of hundreds of tasks are purged at once while leaders die",
        nemeses=(KillLeader, KillAll, PauseLeader),
        workloads=(Purges,),
        duration_s=6,
    ),
)
