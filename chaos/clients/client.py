"""A client made from generated stubs alone."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from chaos.cluster.stubs import Broker, StubCaller
from chaos.history.calls import ReadCall, SubmitCall
from chaos.history.record import LEDGER_LABEL, Ledger, ledger_label
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2

SEND_S = 1.0
"""How long one sending may take before another broker is asked."""


class StubClient(StubCaller):
    """Submits and reads, and writes all of it into the ledger."""

    def __init__(
        self, addresses: Sequence[str], ledger: Ledger, actor: str, *, send_s: float = SEND_S
    ) -> None:
        super().__init__(addresses, ledger, actor)
        self._send_s = send_s

    async def submit(
        self, specs: Sequence[task_pb2.TaskSpec], *, within_s: float = 30
    ) -> list[str | None]:
        """Create tasks, each labelled for the ledger; None stands for an item that was refused."""
        request_id = str(uuid.uuid4())
        queues = {spec.queue for spec in specs}
        queue = queues.pop() if len(queues) == 1 else ""
        for item, spec in enumerate(specs):
            spec.labels[LEDGER_LABEL] = ledger_label(request_id, item)

        async def send(broker: Broker, age: Duration, call: SubmitCall) -> list[str | None]:
            request = task_service_pb2.SubmitRequest(
                request_id=request_id, retry_age=age, tasks=specs
            )
            reply = await broker.tasks.Submit(request, timeout=self._send_s)
            ids = [result.task.task_id or None for result in reply.results]
            self.ledger.submitted(call, ids)
            return ids

        return await self.until_answered(
            lambda: self.ledger.submit(self.actor, request_id, len(specs), queue),
            send,
            within_s=within_s,
        )

    async def submit_together(
        self, specs: Sequence[task_pb2.TaskSpec], *, within_s: float = 30
    ) -> list[str]:
        """Create tasks of one queue, all or none, each labelled for the ledger."""
        request_id = str(uuid.uuid4())
        for item, spec in enumerate(specs):
            spec.labels[LEDGER_LABEL] = ledger_label(request_id, item)

        async def send(broker: Broker, age: Duration, call: SubmitCall) -> list[str]:
            request = task_service_pb2.SubmitTogetherRequest(
                request_id=request_id, retry_age=age, tasks=specs
            )
            reply = await broker.tasks.SubmitTogether(request, timeout=self._send_s)
            ids = [task.task_id for task in reply.tasks]
            self.ledger.submitted(call, ids)
            return ids

        return await self.until_answered(
            lambda: self.ledger.submit(
                self.actor, request_id, len(specs), specs[0].queue, together=True
            ),
            send,
            within_s=within_s,
        )

    async def read(self, task_id: str, *, within_s: float = 30) -> task_pb2.Task | None:
        """Read one task, linearizably; None when there is none."""
        return await self.until_answered(
            lambda: self.ledger.read(self.actor, task_id),
            lambda broker, _, call: self.read_through(broker, call),
            within_s=within_s,
        )

    async def read_through(self, broker: Broker, call: ReadCall) -> task_pb2.Task | None:
        """Send one read to this broker."""
        request = task_service_pb2.GetTaskRequest(task_id=call.task_id)
        try:
            reply = await broker.tasks.GetTask(request, timeout=self._send_s)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                self.ledger.found(call, None)
                return None
            raise
        self.ledger.found(call, reply.task)
        return reply.task

    async def list_queues(self) -> list[queue_service_pb2.QueueStats]:
        """What the cluster counts, by queue; the first broker must be up or come up."""
        request = queue_service_pb2.ListQueuesRequest(page_size=1_000)
        reply = await self.brokers[0].queues.ListQueues(request, timeout=10, wait_for_ready=True)
        return list(reply.queues)

    async def list_all(
        self,
        read_level: task_service_pb2.ReadLevel.ValueType = (
            task_service_pb2.READ_LEVEL_LINEARIZABLE
        ),
        *,
        broker: Broker | None = None,
        queue: str = "",
    ) -> list[task_pb2.Task]:
        """Page through every task of a queue, or of all; the asked broker must be or come up."""
        tasks: list[task_pb2.Task] = []
        page_token = ""
        while True:
            request = task_service_pb2.ListTasksRequest(
                queue=queue, page_size=1_000, page_token=page_token, read_level=read_level
            )
            page = await (broker or self.brokers[0]).tasks.ListTasks(
                request, timeout=10, wait_for_ready=True
            )
            tasks += page.tasks
            page_token = page.next_page_token
            if not page_token:
                return tasks
