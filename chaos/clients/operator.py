"""An operator made from generated stubs alone: cancels, redrives, purges, pauses."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from chaos.cluster.stubs import Broker, StubCaller
from chaos.history.calls import CancelCall, DeleteCall, PauseCall, PurgeCall, RedriveCall
from tq.v1 import queue_service_pb2, task_service_pb2

_ChangeT = TypeVar("_ChangeT", RedriveCall, DeleteCall, PurgeCall)

SEND_S = 1.0
WITHIN_S = 60.0
SLICE = 100


class StubOperator(StubCaller):
    """Records all its calls in the ledger; a call is repeated until it is answered."""

    async def cancel(self, task_id: str) -> None:
        """Cancel one task."""
        request_id = str(uuid.uuid4())

        async def send(broker: Broker, age: Duration, call: CancelCall) -> None:
            request = task_service_pb2.CancelTaskRequest(
                task_id=task_id, request_id=request_id, retry_age=age
            )
            try:
                reply = await broker.tasks.CancelTask(request, timeout=SEND_S)
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                self.ledger.cancelled(call, None)
                return
            self.ledger.cancelled(call, reply.state)

        await self.until_answered(
            lambda: self.ledger.cancel(self.actor, request_id, task_id), send, within_s=WITHIN_S
        )

    async def redrive(self, task_id: str) -> None:
        """Redrive one task, if it is a dead letter."""
        request_id = str(uuid.uuid4())

        async def send(broker: Broker, age: Duration) -> int:
            request = queue_service_pb2.RedriveRequest(
                task_ids=[task_id], request_id=request_id, retry_age=age
            )
            return (await broker.queues.Redrive(request, timeout=SEND_S)).redriven

        await self._change(
            lambda: self.ledger.redrive(self.actor, request_id, task_id=task_id), send
        )

    async def redrive_all(self, queue: str) -> None:
        """Redrive the oldest dead letters of a queue."""
        request_id = str(uuid.uuid4())

        async def send(broker: Broker, age: Duration) -> int:
            request = queue_service_pb2.RedriveRequest(
                queue=queue, max_tasks=SLICE, request_id=request_id, retry_age=age
            )
            return (await broker.queues.Redrive(request, timeout=SEND_S)).redriven

        await self._change(lambda: self.ledger.redrive(self.actor, request_id, queue=queue), send)

    async def delete(self, task_id: str) -> None:
        """Delete one task, if it is a dead letter."""
        request_id = str(uuid.uuid4())

        async def send(broker: Broker, age: Duration) -> int:
            request = queue_service_pb2.DeleteDeadLettersRequest(
                task_ids=[task_id], request_id=request_id, retry_age=age
            )
            return (await broker.queues.DeleteDeadLetters(request, timeout=SEND_S)).deleted

        await self._change(
            lambda: self.ledger.delete(self.actor, request_id, task_id=task_id), send
        )

    async def purge(self, queue: str, *, at_once: bool = False) -> None:
        """Cancel a slice of a queue's waiting tasks, or all of them."""
        request_id = str(uuid.uuid4())

        async def send(broker: Broker, age: Duration) -> int:
            request = queue_service_pb2.PurgeQueueRequest(
                queue=queue,
                max_tasks=0 if at_once else SLICE,
                at_once=at_once,
                request_id=request_id,
                retry_age=age,
            )
            return (await broker.queues.PurgeQueue(request, timeout=SEND_S)).cancelled

        await self._change(
            lambda: self.ledger.purge(self.actor, request_id, queue, at_once=at_once), send
        )

    async def pause(self, queue: str, *, paused: bool) -> None:
        """Pause or resume a queue."""

        async def send(broker: Broker, _: Duration, call: PauseCall) -> None:
            request = queue_service_pb2.ConfigureQueueRequest(
                queue=queue, settings=queue_service_pb2.QueueSettings(paused=paused)
            )
            await broker.queues.ConfigureQueue(request, timeout=SEND_S)
            self.ledger.configured(call)

        await self.until_answered(
            lambda: self.ledger.pause(self.actor, queue, paused=paused), send, within_s=WITHIN_S
        )

    async def _change(
        self,
        begin: Callable[[], _ChangeT],
        send: Callable[[Broker, Duration], Awaitable[int]],
    ) -> None:
        """Send until it is answered, and write down how many tasks were changed."""

        async def noted(broker: Broker, age: Duration, call: _ChangeT) -> None:
            self.ledger.changed(call, await send(broker, age))

        await self.until_answered(begin, noted, within_s=WITHIN_S)
