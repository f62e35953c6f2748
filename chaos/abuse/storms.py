"""Storms of calls that are legal, each at its limits, many at once, through every broker."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from grpc import aio

from chaos.abuse.target import QUEUE, Target, connection, together
from tq.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)

if TYPE_CHECKING:
    from tq.v1.cluster_service_pb2_grpc import ClusterServiceAsyncStub
    from tq.v1.queue_service_pb2_grpc import QueueServiceAsyncStub
    from tq.v1.task_service_pb2_grpc import TaskServiceAsyncStub
    from tq.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

TASKS_A_CALL = 1_000
CHILDREN_A_REPORT = 100
LEASES_A_HEARTBEAT = 10_000
QUEUES_A_CLAIM = TYPES_A_CLAIM = 64
QUEUES = 8
AT_ONCE = 8
PURGES_WHOLE = 0.3
"""The share of purges that are of the whole queue."""
CALL_S = 30.0
BETWEEN_S = 0.3
RETENTION = Duration(seconds=1)
KEPT_TASKS_MAX = 60_000
"""Above this no more tasks are submitted: the abuse is of calls, not of the disk."""


@dataclass(slots=True)
class _Broker:
    """One broker's stubs."""

    tasks: TaskServiceAsyncStub
    workers: WorkerServiceAsyncStub
    queues: QueueServiceAsyncStub
    cluster: ClusterServiceAsyncStub
    draw: random.Random


Kind = Callable[[_Broker], Awaitable[None]]


async def submits(broker: _Broker) -> None:
    """Submit as many tasks as one call may hold."""
    stats = await broker.queues.ListQueues(queue_service_pb2.ListQueuesRequest(), timeout=CALL_S)
    if sum(each.pending for each in stats.queues) > KEPT_TASKS_MAX:
        return
    queue = f"{QUEUE}-{broker.draw.randrange(QUEUES)}"
    tasks = [
        task_pb2.TaskSpec(
            queue=queue, type=f"t{number % 200}", priority=number % 256, retention=RETENTION
        )
        for number in range(TASKS_A_CALL)
    ]
    request = task_service_pb2.SubmitRequest(request_id=uuid.uuid4().hex, tasks=tasks)
    await broker.tasks.Submit(request, timeout=CALL_S)


async def typed_claims(broker: _Broker) -> None:
    """Claim many types, most of which no task has, over many queues."""
    claimed = await broker.workers.Claim(
        worker_service_pb2.ClaimRequest(
            worker_id="typed",
            queues=[f"{QUEUE}-{number}" for number in range(QUEUES_A_CLAIM)],
            types=[f"none{number}" for number in range(TYPES_A_CLAIM - 1)] + ["t7"],
            max_tasks=TASKS_A_CALL,
            lease=Duration(seconds=60),
            request_id=uuid.uuid4().hex,
        ),
        timeout=CALL_S,
    )
    await _give_up(broker, "typed", claimed.tasks)


async def reports(broker: _Broker) -> None:
    """Report many completions, each of which submits as many tasks as it may."""
    claimed = await broker.workers.Claim(
        worker_service_pb2.ClaimRequest(
            worker_id="reports",
            queues=[f"{QUEUE}-{number}" for number in range(QUEUES)],
            max_tasks=TASKS_A_CALL,
            lease=Duration(seconds=60),
            request_id=uuid.uuid4().hex,
        ),
        timeout=CALL_S,
    )
    children = [
        task_pb2.TaskSpec(queue=f"{QUEUE}-children", type="t", retention=RETENTION)
    ] * CHILDREN_A_REPORT
    request = worker_service_pb2.ReportRequest(
        worker_id="reports",
        reports=[
            worker_service_pb2.TaskReport(
                task_id=task.spec.task_id,
                token=task.token,
                complete=worker_service_pb2.Completion(submit=children),
            )
            for task in claimed.tasks
        ],
    )
    with suppress(aio.AioRpcError):
        await broker.workers.Report(request, timeout=CALL_S)
    await _give_up(broker, "reports", claimed.tasks)


async def heartbeats(broker: _Broker) -> None:
    """Send a heartbeat with as many leases as it may name, none of them held."""
    leases = [
        worker_service_pb2.HeldLease(task_id=f"{QUEUE}-{number}", token=number + 1)
        for number in range(LEASES_A_HEARTBEAT)
    ]
    request = worker_service_pb2.HeartbeatRequest(worker_id="heartbeats", leases=leases)
    await broker.workers.Heartbeat(request, timeout=CALL_S)


async def purges(broker: _Broker) -> None:
    """Purge, redrive and delete as many tasks as one call may name, or purge all at once."""
    queue = broker.draw.choice([f"{QUEUE}-children", f"{QUEUE}-{broker.draw.randrange(QUEUES)}"])
    purge = queue_service_pb2.PurgeQueueRequest(queue=queue, max_tasks=TASKS_A_CALL)
    if broker.draw.random() < PURGES_WHOLE:
        purge = queue_service_pb2.PurgeQueueRequest(queue=queue, at_once=True)
    await broker.queues.PurgeQueue(purge, timeout=CALL_S)
    await broker.queues.Redrive(
        queue_service_pb2.RedriveRequest(queue=queue, max_tasks=TASKS_A_CALL), timeout=CALL_S
    )
    await broker.queues.DeleteDeadLetters(
        queue_service_pb2.DeleteDeadLettersRequest(queue=queue, max_tasks=TASKS_A_CALL),
        timeout=CALL_S,
    )
    with suppress(aio.AioRpcError):  # it holds tasks, most probably
        await broker.queues.DeleteQueue(
            queue_service_pb2.DeleteQueueRequest(queue=queue), timeout=CALL_S
        )


async def lists(broker: _Broker) -> None:
    """List the longest pages, with filters that no task passes."""
    states = [state for state in task_pb2.TaskState.values() if state]
    for request in (
        task_service_pb2.ListTasksRequest(type="none", page_size=1_000),
        task_service_pb2.ListTasksRequest(
            queue=f"{QUEUE}-0", states=states, labels={"a": "b"}, page_size=1_000
        ),
    ):
        await broker.tasks.ListTasks(request, timeout=CALL_S)
    await broker.queues.ListDeadLetters(
        queue_service_pb2.ListDeadLettersRequest(page_size=1_000), timeout=CALL_S
    )
    await broker.workers.ListWorkers(
        worker_service_pb2.ListWorkersRequest(page_size=1_000), timeout=CALL_S
    )


async def backups(broker: _Broker) -> None:
    """Ask for backups of entries that do not exist yet."""
    request = cluster_service_pb2.BackupRequest(min_applied_index=2**63)
    async for _ in broker.cluster.Backup(request, timeout=2.0):
        pass


async def waits(broker: _Broker) -> None:
    """Send long polls of the most types, for a task that never arrives."""
    request = worker_service_pb2.ClaimRequest(
        worker_id=f"waits-{broker.draw.randrange(1_000)}",
        queues=[f"{QUEUE}-{number}" for number in range(QUEUES_A_CLAIM)],
        types=[f"none{number}" for number in range(TYPES_A_CLAIM)],
        max_tasks=1,
        wait=Duration(seconds=3),
        request_id=uuid.uuid4().hex,
    )
    await broker.workers.Claim(request, timeout=CALL_S)


KINDS: Mapping[str, tuple[Kind, int]] = {
    "submits": (submits, 1),
    "typed claims": (typed_claims, AT_ONCE),
    "reports": (reports, 2),
    "heartbeats": (heartbeats, 4),
    "purges": (purges, AT_ONCE),
    "lists": (lists, AT_ONCE),
    "backups": (backups, 100),
    "waits": (waits, 200),
}
"""Each kind, with how many calls are sent at once."""


async def storms(target: Target) -> None:
    """Run the storms of every kind together, at one broker after the other."""
    async with _connected(target) as brokers:
        for _ in range(QUEUES):
            await submits(brokers[0])
        target.under_way()

        async def storm(kind: Kind, at_once: int) -> None:
            while True:
                broker = target.draw.choice(brokers)
                await together([_refused(kind, broker) for _ in range(at_once)])
                await asyncio.sleep(BETWEEN_S)

        await together([storm(kind, at_once) for kind, at_once in KINDS.values()])


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[Sequence[_Broker]]:
    channels = [connection(address) for address in target.api]
    opened = [await channel.__aenter__() for channel in channels]
    try:
        yield [
            _Broker(
                task_service_pb2_grpc.TaskServiceStub(channel),
                worker_service_pb2_grpc.WorkerServiceStub(channel),
                queue_service_pb2_grpc.QueueServiceStub(channel),
                cluster_service_pb2_grpc.ClusterServiceStub(channel),
                target.draw,
            )
            for channel in opened
        ]
    finally:
        for channel in channels:
            await channel.__aexit__(None, None, None)


async def _refused(kind: Kind, broker: _Broker) -> None:
    """Send one call of a kind; the broker may answer or refuse it."""
    with suppress(aio.AioRpcError):
        await kind(broker)


async def _give_up(
    broker: _Broker, worker_id: str, claimed: Sequence[worker_service_pb2.ClaimedTask]
) -> None:
    """Complete the claimed tasks: tasks that pile up would be another abuse."""
    request = worker_service_pb2.ReportRequest(
        worker_id=worker_id,
        reports=[
            worker_service_pb2.TaskReport(
                task_id=task.spec.task_id,
                token=task.token,
                complete=worker_service_pb2.Completion(),
            )
            for task in claimed
        ],
    )
    if request.reports:
        await broker.workers.Report(request, timeout=CALL_S)
