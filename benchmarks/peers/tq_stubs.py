"""tq as a program in another language meets it: generated stubs, each submit a call of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from benchmarks.cluster import brokers
from benchmarks.peers.session import PAYLOAD, TO_DONE_S, SubmitsOnly
from tq.v1.task_pb2 import TaskSpec
from tq.v1.task_service_pb2 import SubmitRequest
from tq.v1.task_service_pb2_grpc import TaskServiceStub

START_S = 30.0


class StubsSession(SubmitsOnly):
    """A channel to the leader."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TaskServiceStub(channel)

    async def submit(self, queue: str) -> None:
        await self.submit_many(queue, 1)

    async def submit_many(self, queue: str, tasks: int) -> None:
        spec = TaskSpec(queue=queue, type="noop", payload=PAYLOAD)
        response = await self._stub.Submit(
            SubmitRequest(request_id=str(uuid.uuid4()), tasks=[spec] * tasks), timeout=TO_DONE_S
        )
        for result in response.results:
            if not result.HasField("task"):
                raise AssertionError(f"a task was refused: {result.error}")


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[StubsSession]:
    """Start three brokers."""
    async with brokers(folder) as cluster:
        leader = await cluster.await_leader(START_S)
        address = cluster.brokers[leader.node_id].address
        async with grpc.aio.insecure_channel(address) as channel:
            yield StubsSession(channel)
