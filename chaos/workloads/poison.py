"""F20: tasks that crash their worker.

The promise: each becomes a dead letter after its attempts, and its neighbours complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from chaos.clients.worker import Held, Plan, StubWorker
from chaos.cluster.stubs import seconds
from chaos.context import RunContext
from chaos.history.facts import Facts
from chaos.history.record import Ledger
from chaos.history.violation import Violation
from chaos.nemeses.kill import KillLeader
from chaos.scenario import Scenario
from chaos.workloads.background import Background
from chaos.workloads.sizes import Sizes
from tq.v1 import task_pb2

QUEUE = "poison"
POISON = "poison"
LEASE_S = 1.0
ATTEMPTS = 2
POISONED, HARMLESS = 2, 6


class CrashError(Exception):
    """A handler took its process down."""


class MortalWorker(StubWorker):
    """Dies of a poison task, without a report of any task that it holds."""

    async def _work(self, held: Held) -> None:
        if held.task.spec.type == POISON:
            raise CrashError
        await super()._work(held)


class Poison(Background):
    """A few poison tasks among harmless ones, which must complete nevertheless."""

    name = "poison"
    promise = "a task that kills its workers is a dead letter after its attempts; others complete"

    def __init__(self) -> None:
        super().__init__()
        self._poisoned: list[str] = []
        self._harmless: list[str] = []

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        await super().start(context, addresses, seed)
        self.go_on(self._lives(addresses, context.ledger))
        for number in range(POISONED):
            self._poisoned += await self._submit(POISON, number)
        for number in range(HARMLESS):
            self._harmless += await self._submit("planned", number)

    async def settle(self) -> None:
        """All of it was submitted at the start."""

    async def judge(self, context: RunContext) -> None:
        for task_id in self._poisoned:
            task = await self.client.read(task_id)
            if task is None or (
                task.state != task_pb2.TASK_STATE_FAILED
                or task.failure_reason != task_pb2.FAILURE_REASON_ATTEMPTS_EXHAUSTED
                or task.attempts_made != ATTEMPTS
            ):
                context.accuse("dead letters", f"a poisoned task did not become one: {task}")
        for task_id in self._harmless:
            task = await self.client.read(task_id)
            if task is None or task.state != task_pb2.TASK_STATE_COMPLETED:
                context.accuse("dead letters", f"a harmless task died of its neighbour: {task}")

    def violations(self, facts: Facts) -> Iterator[Violation]:
        for task in facts.tasks.values():
            specs = [read.task.spec for read in task.reads if read.task is not None]
            if not any(spec.queue == QUEUE and spec.type == POISON for spec in specs):
                continue
            grants = (grant for lease in task.leases.values() for _, grant in lease.granted)
            most = max((grant.attempt for grant in grants), default=0)
            if most > ATTEMPTS:
                yield Violation(
                    "dead letters",
                    f"task {task.task_id}: was given out for attempt {most} of {ATTEMPTS}",
                    task.task_id,
                )

    async def _submit(self, task_type: str, number: int) -> list[str]:
        spec = task_pb2.TaskSpec(
            queue=QUEUE,
            type=task_type,
            payload=Plan().payload(f"{task_type} {number}"),
            max_attempts=ATTEMPTS if task_type == POISON else 50,
            retry_policy=task_pb2.RetryPolicy(initial_backoff=seconds(0.1)),
        )
        return [task_id for task_id in await self.client.submit([spec]) if task_id]

    async def _lives(self, addresses: Sequence[str], ledger: Ledger) -> None:
        """Run one worker after the other; each dies at its first poison task."""
        for life in range(1, 1_000):
            worker = MortalWorker(
                addresses, ledger, f"mortal-{life}", QUEUE, lease_s=LEASE_S, tasks_max=2
            )
            try:
                await worker.run()
            except* CrashError:
                await asyncio.sleep(0)
            finally:
                await worker.close()


SCENARIOS = (
    Scenario(
        name="poison",
        summary="handlers that crash their process, payloads around 64 KiB and at 10 MiB",
        nemeses=(KillLeader,),
        workloads=(Poison, Sizes),
        duration_s=3,
        more_faults=("F20",),
    ),
)
