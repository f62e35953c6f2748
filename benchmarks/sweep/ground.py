"""The content of the swept cluster: tasks in every state, leases, dead letters, workers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import grpc
import grpc.aio

from benchmarks.sweep import extremes
from chaos.cluster.cluster import Cluster
from tq.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    task_options,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from tq_common.task_options import Kind

CALL_S = 60.0
BATCH = 1_000
IN_FLIGHT = 4
MIB = 1 << 20

BUSY = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
)
QUEUES = 64
"""Among which the most of the tasks are spread, each with aging: a sorted run a priority."""
TYPES = 64
LEASES = 10_000
WORKERS = 1_500
DEAD = 300
"""Dead letters with the longest history that is kept, each error at its limit."""
ATTEMPTS = 50
ERROR_BYTES = 8 << 10
LABELLED = 1_000
WIDE = "wide." + "w" * 120
"""A queue of the longest name, whose tasks have every field at its maximum."""
LONG_TYPE = "t" * 128
LABELS = extremes.most(task_options.LABELS, datetime.now(UTC))

Reply = TypeVar("Reply")


class Stubs:
    """A node's services."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.queues = queue_service_pb2_grpc.QueueServiceStub(channel)
        self.cluster = cluster_service_pb2_grpc.ClusterServiceStub(channel)


def wide_spec(queue: str, task_id: str = "", payload: bytes = b"") -> task_pb2.TaskSpec:
    """Return a task with every field at its maximum but the payload; it is ready at once."""
    spec = task_pb2.TaskSpec(
        task_id=task_id,
        queue=queue,
        type=LONG_TYPE,
        payload=payload,
    )
    for option in task_options.OPTIONS:
        if not (
            option is task_options.TASK_ID
            or option is task_options.NEED
            or option.submit_only
            or option.kind in {Kind.INSTANT, Kind.OTHER}
        ):
            extremes.put(spec, option, extremes.most(option, datetime.now(UTC)))
    spec.retry_policy.initial_backoff.FromSeconds(86_400)
    spec.retry_policy.max_backoff.FromSeconds(7 * 86_400)
    spec.retry_policy.multiplier = 100
    return spec


class Ground:
    """Fills a cluster, and provides what a request needs to be as expensive as possible."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._say = say
        self._ids = itertools.count()
        self.leader_id = ""
        self.limits = cluster_service_pb2.ClusterLimits()
        self.held: list[worker_service_pb2.HeldLease] = []
        """Leases that stay live during the whole sweep."""
        self.worker_id = "holder"

    @property
    def leader(self) -> Stubs:
        """The leader's services."""
        return self.node(self.leader_id)

    @property
    def follower_id(self) -> str:
        """A node that does not lead."""
        return next(name for name in self._cluster.nodes if name != self.leader_id)

    def node(self, node_id: str) -> Stubs:
        """A node's services."""
        return Stubs(self._cluster.channel(node_id))

    def fresh(self, what: str) -> str:
        """Return an id that was not used before."""
        return f"{what}-{next(self._ids)}"

    async def await_leader(self) -> None:
        """Find who leads."""
        self.leader_id = (await self._cluster.await_leader(60)).node_id

    async def fill(self, tasks: int) -> None:
        """Submit ``tasks`` tasks, and bring them into every state there is."""
        await self.await_leader()
        status = await self.leader.cluster.GetClusterStatus(
            cluster_service_pb2.GetClusterStatusRequest(), timeout=CALL_S
        )
        self.limits = status.limits
        share = min(1.0, tasks / 1_000_000)
        await self._configure()
        dead = max(20, int(DEAD * share))
        running = min(LEASES, tasks // 10)
        await self._part("running", running, self._plain("running", retention_s=366 * 86_400))
        self.held = await self.lease("running", running)
        await self._part("completed", tasks // 10, self._plain("done", retention_s=366 * 86_400))
        await self._complete("done", tasks // 10)
        await self._part("wide", LABELLED, lambda _n: wide_spec(WIDE), batch=400)
        await self._part("dead", dead, self._dying)
        await self._kill(dead)
        await self._part("expired", tasks // 50, self._expiring)
        await self._part("scheduled", tasks // 10, self._scheduled)
        await self._part("pending", tasks - tasks // 10 * 2 - tasks // 50, self._pending)
        await self._giants()
        await self._greet()

    # ---------------------------------------------------------------- what shapes ask for

    async def lease(self, queue: str, count: int) -> list[worker_service_pb2.HeldLease]:
        """Lease ``count`` tasks of a queue for an hour."""
        held: list[worker_service_pb2.HeldLease] = []
        while len(held) < count:
            request = worker_service_pb2.ClaimRequest(
                worker_id=self.worker_id,
                queues=[queue],
                max_tasks=min(BATCH, count - len(held)),
                request_id=self.fresh("claim"),
            )
            request.lease.FromSeconds(3_600)
            claimed = await self._call(self.leader.workers.Claim, request)
            if not claimed.tasks:
                raise AssertionError(f"{queue} has no {count} tasks to lease")
            held.extend(
                worker_service_pb2.HeldLease(task_id=task.spec.task_id, token=task.token)
                for task in claimed.tasks
            )
        return held

    async def leased(self, count: int) -> list[worker_service_pb2.HeldLease]:
        """Submit ``count`` tasks and lease them."""
        queue = self.fresh("leased")
        await self._part("", count, self._plain(queue))
        return await self.lease(queue, count)

    async def waiting(self, count: int, *, scheduled: bool = False) -> str:
        """Submit ``count`` tasks to a queue of their own, and return its name."""
        queue = self.fresh("waiting")
        await self._part("", count, self._scheduled_in(queue) if scheduled else self._plain(queue))
        return queue

    async def dead_letters(self, count: int) -> str:
        """Make ``count`` dead letters in a queue of their own, and return its name."""
        queue = self.fresh("dead")
        await self._part("", count, self._plain(queue))
        held = await self.lease(queue, count)
        failure = worker_service_pb2.Failure(error="e" * ERROR_BYTES, permanent=True)
        await self._report(held, worker_service_pb2.TaskReport(fail=failure), batch=100)
        return queue

    # ---------------------------------------------------------------- filling

    async def _configure(self) -> None:
        for n in range(QUEUES):
            settings = queue_service_pb2.QueueSettings(
                ordering=queue_service_pb2.QueueSettings.ORDERING_AGING
            )
            request = queue_service_pb2.ConfigureQueueRequest(queue=f"q{n}", settings=settings)
            await self._call(self.leader.queues.ConfigureQueue, request)

    def _plain(self, queue: str, retention_s: int = 3_600) -> Callable[[int], task_pb2.TaskSpec]:
        spec = task_pb2.TaskSpec(queue=queue, type="t", payload=bytes(200))
        spec.retention.FromSeconds(retention_s)
        return lambda _n: spec

    def _pending(self, n: int) -> task_pb2.TaskSpec:
        return task_pb2.TaskSpec(
            queue=f"q{n % QUEUES}",
            type=f"t{n // QUEUES % TYPES}",
            priority=n // (QUEUES * TYPES) % 256,
            payload=bytes(200),
            labels={"team": str(n % 7)},
        )

    def _scheduled(self, n: int) -> task_pb2.TaskSpec:
        return self._scheduled_in("later")(n)

    def _scheduled_in(self, queue: str) -> Callable[[int], task_pb2.TaskSpec]:
        spec = task_pb2.TaskSpec(queue=queue, type="t", payload=bytes(200))
        spec.run_at.FromSeconds(int(time.time()) + 30 * 86_400)
        return lambda _n: spec

    def _expiring(self, _n: int) -> task_pb2.TaskSpec:
        spec = task_pb2.TaskSpec(queue="expired", type="t")
        spec.expire_at.FromSeconds(int(time.time()) + 1)
        return spec

    def _dying(self, n: int) -> task_pb2.TaskSpec:
        spec = wide_spec("dead", f"dead-{n}".ljust(200, "d"))
        spec.max_attempts = ATTEMPTS
        return spec

    async def _part(
        self, name: str, count: int, spec: Callable[[int], task_pb2.TaskSpec], batch: int = BATCH
    ) -> None:
        if name:
            self._say(f"filling: {count:,} {name}")
        batches = iter(range(0, count, batch))

        async def submit() -> None:
            for begin in batches:
                request = task_service_pb2.SubmitRequest(
                    request_id=self.fresh("fill"),
                    tasks=[spec(n) for n in range(begin, min(begin + batch, count))],
                )
                reply = await self._call(self.leader.tasks.Submit, request)
                for result in reply.results:
                    if result.HasField("error"):
                        raise AssertionError(f"filling {name}: {result.error}")

        await asyncio.gather(*(submit() for _ in range(IN_FLIGHT)))

    async def _complete(self, queue: str, count: int) -> None:
        completion = worker_service_pb2.Completion(result=bytes(100))
        while count > 0:
            held = await self.lease(queue, min(count, 4 * BATCH))
            await self._report(held, worker_service_pb2.TaskReport(complete=completion))
            count -= len(held)

    async def _kill(self, count: int) -> None:
        failure = worker_service_pb2.Failure(error="e" * ERROR_BYTES)
        failure.retry_after.FromSeconds(0)
        for _ in range(ATTEMPTS):
            held = await self._lease_due("dead", count)
            await self._report(held, worker_service_pb2.TaskReport(fail=failure), batch=100)

    async def _lease_due(self, queue: str, count: int) -> list[worker_service_pb2.HeldLease]:
        """Lease tasks that became due a moment ago and will soon be ready."""
        held: list[worker_service_pb2.HeldLease] = []
        while len(held) < count:
            request = worker_service_pb2.ClaimRequest(
                worker_id=self.worker_id, queues=[queue], max_tasks=count - len(held)
            )
            request.lease.FromSeconds(3_600)
            request.wait.FromSeconds(10)
            claimed = await self._call(self.leader.workers.Claim, request)
            held.extend(
                worker_service_pb2.HeldLease(task_id=task.spec.task_id, token=task.token)
                for task in claimed.tasks
            )
        return held

    async def _report(
        self,
        held: Sequence[worker_service_pb2.HeldLease],
        outcome: worker_service_pb2.TaskReport,
        batch: int = BATCH,
    ) -> None:
        for begin in range(0, len(held), batch):
            request = worker_service_pb2.ReportRequest(worker_id=self.worker_id)
            for lease in held[begin : begin + batch]:
                report = request.reports.add()
                report.CopyFrom(outcome)
                report.task_id, report.token = lease.task_id, lease.token
            await self._call(self.leader.workers.Report, request)

    async def _giants(self) -> None:
        """Make a task with the largest payload and one that also has the largest result."""
        payload = bytes(self.limits.payload_bytes_max)
        for task_id in ("giant-pending", "giant-done"):
            spec = task_pb2.TaskSpec(queue=task_id, type="t", task_id=task_id, payload=payload)
            request = task_service_pb2.SubmitRequest(tasks=[spec], request_id=self.fresh("fill"))
            await self._call(self.leader.tasks.Submit, request)
        held = await self.lease("giant-done", 1)
        completion = worker_service_pb2.Completion(result=payload)
        await self._report(held, worker_service_pb2.TaskReport(complete=completion))

    async def _greet(self) -> None:
        """Make WORKERS workers known, each with the longest names of the most queues."""
        names = [f"{n:02}".ljust(128, "q") for n in range(64)]
        for begin in range(0, WORKERS, 50):
            await asyncio.gather(
                *(
                    self._call(
                        self.leader.workers.Claim,
                        worker_service_pb2.ClaimRequest(
                            worker_id=f"worker-{n}".ljust(200, "w"), queues=names, max_tasks=1
                        ),
                    )
                    for n in range(begin, min(begin + 50, WORKERS))
                )
            )

    async def _call(self, method: Callable[..., Awaitable[Reply]], request: object) -> Reply:
        """Make one call, and repeat it for a while if the cluster is busy."""
        give_up_s = time.monotonic() + CALL_S
        while True:
            try:
                reply = await method(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in BUSY or time.monotonic() > give_up_s:
                    raise
                await asyncio.sleep(0.1)
                await self.await_leader()
            else:
                return reply
