"""tq.v1.TaskService."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tq.v1 import task_service_pb2 as pb
from tq_cluster.core.kernel.validation import check_wait
from tq_cluster.core.model.operations import Cancel, Submit, SubmitTogether
from tq_cluster.core.reads import listings, queries
from tq_cluster.service.backend import Leading
from tq_cluster.service.call import Call, Method, Place
from tq_cluster.service.errors import refusal
from tq_cluster.service.reads import Reads, reply_of
from tq_common.limits import WAIT_S_MAX

if TYPE_CHECKING:
    from tq_cluster.telemetry.spans import Tracing


class TaskServicer:
    """Submitting and querying tasks."""

    name = "tq.v1.TaskService"

    def __init__(
        self,
        *,
        leading: Leading,
        reads: Reads,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._leading = leading
        self._reads = reads

    def methods(self) -> Sequence[Method]:
        """Return the methods of this service."""
        return (
            Method(
                name="Submit",
                request=pb.SubmitRequest,
                handle=self.submit,
            ),
            Method(
                name="SubmitTogether",
                request=pb.SubmitTogetherRequest,
                handle=self.submit_together,
            ),
            Method(
                name="GetTask",
                request=pb.GetTaskRequest,
                handle=self.get_task,
                place=Place.BY_READ_LEVEL,
            ),
            Method(
                name="ListTasks",
                request=pb.ListTasksRequest,
                handle=self.list_tasks,
                place=Place.BY_READ_LEVEL,
            ),
            Method(
                name="WaitTask",
                request=pb.WaitTaskRequest,
                handle=self.wait_task,
                default_deadline_s=WAIT_S_MAX + 5,
                paced=False,
            ),
            Method(
                name="CancelTask",
                request=pb.CancelTaskRequest,
                handle=self.cancel_task,
            ),
        )

    async def submit(self, request: pb.SubmitRequest, call: Call) -> pb.SubmitResponse:
        # Without a request id no retry could use the same seed, so any seed will do.
        seed = request.request_id or uuid.uuid4().hex
        operation = Submit(request=request, id_seed=seed, caller=call.caller)
        reply: pb.SubmitResponse = reply_of(await self._leading.submit(operation))
        if self._tracing is not None:
            spent_s = asyncio.get_running_loop().time() - call.arrived_s
            self._tracing.submitted(request.tasks, reply.results, spent_s)
        return reply

    async def submit_together(
        self, request: pb.SubmitTogetherRequest, call: Call
    ) -> pb.SubmitTogetherResponse:
        seed = request.request_id or uuid.uuid4().hex
        operation = SubmitTogether(request=request, id_seed=seed, caller=call.caller)
        reply: pb.SubmitTogetherResponse = reply_of(await self._leading.submit(operation))
        if self._tracing is not None:
            spent_s = asyncio.get_running_loop().time() - call.arrived_s
            results = [pb.SubmitResult(task=task) for task in reply.tasks]
            self._tracing.submitted(request.tasks, results, spent_s)
        return reply

    async def get_task(self, request: pb.GetTaskRequest, call: Call) -> pb.GetTaskResponse:
        reply: pb.GetTaskResponse = await self._reads.answer(queries.get_task, request, call)
        return reply

    async def list_tasks(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        reply: pb.ListTasksResponse = await self._reads.answer(listings.list_tasks, request, call)
        return reply

    async def wait_task(self, request: pb.WaitTaskRequest, call: Call) -> pb.WaitTaskResponse:
        if (fault := check_wait("wait", request.wait)) is not None:
            raise refusal(fault)
        wait_s = call.wait_s(request.wait if request.HasField("wait") else None, WAIT_S_MAX)
        reply: pb.WaitTaskResponse = reply_of(
            await self._leading.wait_task(request, call.caller, wait_s, call.holds)
        )
        return reply

    async def cancel_task(self, request: pb.CancelTaskRequest, call: Call) -> pb.CancelTaskResponse:
        operation = Cancel(request=request, caller=call.caller)
        reply: pb.CancelTaskResponse = reply_of(await self._leading.submit(operation))
        return reply
