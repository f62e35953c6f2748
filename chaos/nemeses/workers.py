"""F3: workers that sleep past their leases and report as if nothing had happened."""

from __future__ import annotations

import random

from chaos.clients.client import StubClient
from chaos.clients.worker import Plan, StubWorker, work_result
from chaos.cluster.stubs import seconds
from chaos.context import Injected, RunContext
from chaos.history.calls import Ending, ReportStatus
from chaos.nemeses.nemesis import Nemesis
from tq.v1 import task_pb2

QUEUE = "sleepers"
TASKS = 4
SLEEPER_LEASE_S, HEIR_LEASE_S = 1.0, 30.0
WITHIN_S = 30.0


class WorkerSleeps(Nemesis):
    """A worker claims, sleeps until others hold its tasks, wakes, and reports all as done."""

    name = "worker-sleeps"
    faults = ("F3",)
    summary = "a worker pauses past its lease, wakes up and completes"
    hold_s = (0.0, 0.1)
    alone = True

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        ledger, addresses = context.ledger, context.addresses
        client = StubClient(addresses, ledger, "sleepers-client")
        sleeper = StubWorker(addresses, ledger, "sleeper", QUEUE, lease_s=SLEEPER_LEASE_S)
        heir = StubWorker(addresses, ledger, "heir", QUEUE, lease_s=HEIR_LEASE_S)
        try:
            await client.submit([_spec(draw.random()) for _ in range(TASKS)])
            late = [await sleeper.claim_one(WITHIN_S) for _ in range(TASKS)]
            inherited = {
                task.spec.task_id: task
                for task in [await heir.claim_one(WITHIN_S) for _ in range(TASKS)]
            }
            draw.shuffle(late)
            for number, old in enumerate(late):
                new = inherited[old.spec.task_id]
                # Half of them wake before the heir is done, half of them after.
                heir_first = number < TASKS // 2
                right = work_result(new.spec)
                if heir_first:
                    await heir.report(new.spec.task_id, new.token, Ending.COMPLETE, right)
                told = await sleeper.report(
                    old.spec.task_id, old.token, Ending.COMPLETE, b"in my sleep"
                )
                if told.status != ReportStatus.STATUS_LEASE_LOST:
                    status = ReportStatus.Name(told.status)
                    context.accuse("F3", f"a report with an old token was answered {status}")
                if not heir_first:
                    await heir.report(new.spec.task_id, new.token, Ending.COMPLETE, right)
        finally:
            for caller in (client, sleeper, heir):
                await caller.close()
        return Injected(f"slept past {TASKS} leases, then completed them", ())


def _spec(salt: float) -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(
        queue=QUEUE,
        type="planned",
        payload=Plan().payload(f"{salt}"),
        max_attempts=50,
        retry_policy=task_pb2.RetryPolicy(initial_backoff=seconds(0.05)),
    )
