"""A leader over a log whose commits the test releases, and the calls to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tests.leader.fakes import FakeLog
from tests.patience import PATIENCE_S
from tq.v1 import task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.clock import SystemClock
from tq_cluster.core.model.events import TaskEvent
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.operations import Claim, Outcome, Replied, Report, Submit
from tq_cluster.leader.counting import Counting
from tq_cluster.leader.hooks import LeaderHooks
from tq_cluster.leader.leader import Leader
from tq_cluster.reading import Reading
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.telemetry.metrics import Metrics

Reply = TypeVar("Reply", bound=Message)


class Bench:
    """A leader with its log and state."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        on_event: Callable[[TaskEvent], None] | None = None,
        namespaces: Namespaces = ONLY_DEFAULT,
    ) -> None:
        self.store = MemoryStore()
        self.log = FakeLog(self.store)
        self.fatal: list[BaseException] = []
        self.disk_pressure = False
        hooks = LeaderHooks(event=on_event)
        if metrics is not None:
            counting = Counting(
                view=self.store.view,
                tasks=metrics.tasks,
                queues=metrics.queues,
                namespaces=namespaces,
            )
            hooks = LeaderHooks(
                begun=metrics.leads_now, counted=counting.add, sampled=counting.show
            )
        self.leader = Leader(
            node_id="n1",
            log=self.log,
            state=self.store,
            reading=Reading(),
            clock=SystemClock(),
            draw=random.Random(1),
            members=3,
            formation=lambda: None,
            fatal=self.fatal.append,
            hooks=hooks,
            disk_pressure=lambda: self.disk_pressure,
            namespaces=namespaces,
        )


def submit(*types: str, request_id: str = "r1", queue: str = "q") -> Submit:
    tasks = [task_pb2.TaskSpec(queue=queue, type=each) for each in types]
    request = task_service_pb2.SubmitRequest(request_id=request_id, tasks=tasks)
    return Submit(request=request, id_seed=request_id)


def claim(worker_id: str = "w", most: int = 10, request_id: str = "", lease_s: int = 30) -> Claim:
    request = worker_service_pb2.ClaimRequest(
        worker_id=worker_id,
        queues=["q"],
        max_tasks=most,
        request_id=request_id,
        lease=Duration(seconds=lease_s),
    )
    return Claim(request=request)


def told(outcome: Outcome, kind: type[Reply]) -> Reply:
    assert isinstance(outcome, Replied), outcome
    assert isinstance(outcome.reply, kind)
    return outcome.reply


def claimed(outcome: Outcome) -> list[worker_service_pb2.ClaimedTask]:
    return list(told(outcome, worker_service_pb2.ClaimResponse).tasks)


def workers(outcome: Outcome) -> list[worker_service_pb2.WorkerInfo]:
    return list(told(outcome, worker_service_pb2.ListWorkersResponse).workers)


async def until(fact: Callable[[], bool], turn_s: float = 0) -> None:
    """Run the loop until ``fact`` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not fact():  # noqa: ASYNC110 - the facts are plain state, nothing signals them
            await asyncio.sleep(turn_s)


async def start(waiting: Coroutine[Any, Any, Outcome]) -> asyncio.Task[Outcome]:
    """Begin a call and let it run as far as it can."""
    task = asyncio.create_task(waiting)
    for _ in range(20):
        await asyncio.sleep(0)
    return task


def heartbeat(task: worker_service_pb2.ClaimedTask) -> worker_service_pb2.HeartbeatRequest:
    request = worker_service_pb2.HeartbeatRequest(worker_id="w")
    request.leases.add(task_id=task.spec.task_id, token=task.token)
    return request


def release(task: worker_service_pb2.ClaimedTask) -> Report:
    request = worker_service_pb2.ReportRequest(worker_id="w")
    request.reports.add(task_id=task.spec.task_id, token=task.token).release.reason = "not mine"
    return Report(request=request)
