"""The part of TaskService that typed tasks need, on the worker tests' fake queue."""

from __future__ import annotations

from grpc import aio

from tests.worker.fake_broker import TERMINAL, Context, FakeBroker
from tq.v1.task_pb2 import CancelReason, FailureReason, TaskState
from tq.v1.task_service_pb2 import (
    CancelTaskRequest,
    CancelTaskResponse,
    GetTaskRequest,
    GetTaskResponse,
    ListTasksRequest,
    ListTasksResponse,
    SubmitRequest,
    SubmitResponse,
    SubmitTogetherRequest,
    SubmitTogetherResponse,
    WaitTaskRequest,
    WaitTaskResponse,
)
from tq.v1.task_service_pb2_grpc import TaskServiceServicer, add_TaskServiceServicer_to_server


class FakeTaskService(TaskServiceServicer):
    """Submits and waits; another port than the workers'."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._server = aio.server()
        add_TaskServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def SubmitTogether(
        self,
        request: SubmitTogetherRequest,
        _context: Context[SubmitTogetherRequest, SubmitTogetherResponse],
    ) -> SubmitTogetherResponse:
        response = SubmitTogetherResponse()
        for at, spec in enumerate(request.tasks):
            spec.task_id = spec.task_id or f"{request.request_id}-{at}"
            response.tasks.add(task_id=spec.task_id)
        for spec in request.tasks:
            for each in spec.depends_on:
                if each.WhichOneof("on") == "item":
                    each.task_id = request.tasks[each.item].task_id
        await self._broker.admit(*request.tasks)
        return response

    async def Submit(
        self, request: SubmitRequest, _context: Context[SubmitRequest, SubmitResponse]
    ) -> SubmitResponse:
        response = SubmitResponse()
        for at, spec in enumerate(request.tasks):
            spec.task_id = spec.task_id or f"{request.request_id}-{at}"
            response.results.add().task.task_id = spec.task_id
        await self._broker.admit(*request.tasks)
        return response

    async def WaitTask(
        self, request: WaitTaskRequest, _context: Context[WaitTaskRequest, WaitTaskResponse]
    ) -> WaitTaskResponse:
        task = self._broker.tasks[request.task_id]
        await self._broker.until(lambda: task.state in TERMINAL, "the end of a task")
        response = WaitTaskResponse(finished=True)
        response.task.spec.CopyFrom(task.spec)
        response.task.state = TaskState.Value(f"TASK_STATE_{task.state}")
        response.task.result = task.result
        response.task.last_error = task.error
        if task.ended_by:
            response.task.ended_by = task.ended_by
            if task.state == "FAILED":
                response.task.failure_reason = FailureReason.FAILURE_REASON_DEPENDENCY
            else:
                response.task.cancel_reason = CancelReason.CANCEL_REASON_SKIPPED
        return response

    async def GetTask(
        self, _request: GetTaskRequest, _context: Context[GetTaskRequest, GetTaskResponse]
    ) -> GetTaskResponse:
        raise NotImplementedError

    async def ListTasks(
        self, _request: ListTasksRequest, _context: Context[ListTasksRequest, ListTasksResponse]
    ) -> ListTasksResponse:
        raise NotImplementedError

    async def CancelTask(
        self, _request: CancelTaskRequest, _context: Context[CancelTaskRequest, CancelTaskResponse]
    ) -> CancelTaskResponse:
        raise NotImplementedError
