"""A simple honest queue behind the real WorkerService.

Tokens rise and a task has one live lease at most; there is no disk and no log.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
from grpc import aio

from tests.patience import PATIENCE_S
from tq.v1.task_pb2 import Dependency, TaskSpec, TaskState
from tq.v1.worker_service_pb2 import (
    ClaimedTask,
    ClaimRequest,
    ClaimResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    HeartbeatResult,
    ListWorkersRequest,
    ListWorkersResponse,
    ReportRequest,
    ReportResponse,
    ReportResult,
    TaskReport,
    WorkerUsage,
)
from tq.v1.worker_service_pb2_grpc import (
    WorkerServiceServicer,
    add_WorkerServiceServicer_to_server,
)

Context = aio.ServicerContext
TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")
_Beat = HeartbeatResult.Status
_Told = ReportResult.Status


@dataclass
class FakeTask:
    """The queue's record of a task."""

    spec: TaskSpec
    state: str = "PENDING"
    token: int = 0
    """The token of its live lease; 0 without one."""
    worker_id: str = ""
    attempts: int = 0
    cancel_requested: bool = False
    result: bytes = b""
    error: str = ""
    ends: list[str] = field(default_factory=list)
    """How each attempt ended.

    It is one of completed, failed, permanent, released, unfit, snoozed, expired, cancelled.

    An unfit or snoozed task is released for a while: here until a test calls `offer`.
    """
    errors: list[str] = field(default_factory=list)
    """The error of each reported attempt."""
    outcomes: dict[int, str] = field(default_factory=dict)
    """Recorded ends by token."""
    ended_by: str = ""
    """The task that it depended on, if that ended otherwise."""


class FakeBroker(WorkerServiceServicer):
    """The queue; starts and stops its server on one port, keeping the tasks."""

    def __init__(self) -> None:
        self.tasks: dict[str, FakeTask] = {}
        self.ready: deque[str] = deque()
        self.heartbeats: list[list[int]] = []
        """The tokens that each answered heartbeat listed."""
        self.usage: dict[str, WorkerUsage] = {}
        """The last usage that each worker reported."""
        self.reports: list[TaskReport] = []
        """Everything that was reported, refused or not."""
        self.claimants = 0
        """The number of waiting claims."""
        self.deaf = False
        """Whether heartbeats fail."""
        self.mute = False
        """Whether claims are taken and never answered."""
        self.refused_result: bytes | None = None
        """A result that is refused, as one too large would be."""
        self.lose_next_claim = False
        """Whether the next claim that grants a task loses its answer."""
        self.message_bytes_max = 32 * 1024 * 1024
        self.hold_next_grant = False
        """Whether the next claim that grants a task gets no answer until it is repeated."""
        self.port = 0
        self._token = 1000
        self._claims: dict[str, list[tuple[str, int]]] = {}
        self._server: aio.Server | None = None
        self._changed = asyncio.Condition()

    # ---------------------------------------------------------------- what tests do

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self.message_bytes_max),
                ("grpc.max_send_message_length", -1),
            ]
        )
        add_WorkerServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Break every connection."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def submit(
        self,
        task_type: str,
        payload: bytes = b"",
        *,
        count: int = 1,
        queue: str = "q",
        timeout_s: float | None = None,
        max_attempts: int = 5,
        labels: dict[str, str] | None = None,
        traceparent: str = "00-trace",
    ) -> list[str]:
        """Add tasks and return their ids."""
        ids = []
        for _ in range(count):
            spec = TaskSpec(
                task_id=f"{task_type}-{len(self.tasks) + 1}",
                queue=queue,
                type=task_type,
                payload=payload,
                max_attempts=max_attempts,
                content_type="text/plain",
                labels=labels or {},
                traceparent=traceparent,
            )
            if timeout_s is not None:
                spec.timeout.FromMilliseconds(round(timeout_s * 1000))
            self.tasks[spec.task_id] = FakeTask(spec)
            self.ready.append(spec.task_id)
            ids.append(spec.task_id)
        await self.notify()
        return ids

    async def admit(self, *specs: TaskSpec) -> None:
        """Add tasks that have ids; one with dependencies waits for them."""
        for spec in specs:
            self.tasks[spec.task_id] = FakeTask(spec, "BLOCKED" if spec.depends_on else "PENDING")
            if not spec.depends_on:
                self.ready.append(spec.task_id)
        self._let_go()
        await self.notify()

    async def offer(self, task_id: str) -> None:
        """End the pause after which an unfit or snoozed task may be claimed again."""
        self._free(self.tasks[task_id])
        await self.notify()

    async def expire(self, task_id: str) -> None:
        """End a task's lease, as if its worker had been silent."""
        task = self.tasks[task_id]
        task.ends.append("expired")
        self._free(task)
        await self.notify()

    async def until(
        self, fact: Callable[[], bool], what: str, within_s: float = PATIENCE_S
    ) -> None:
        """Wait until ``fact`` holds; the error says what was there instead."""
        try:
            async with asyncio.timeout(within_s):
                while not fact():  # noqa: ASYNC110 - facts of other processes, too
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(
                f"not seen within {within_s:g} s: {what}\n{self.story()}"
            ) from None

    async def until_ended(self, ids: Sequence[str], within_s: float = PATIENCE_S) -> list[FakeTask]:
        """Wait until these tasks are terminal; return them."""
        tasks = [self.tasks[task_id] for task_id in ids]
        await self.until(
            lambda: all(task.state in TERMINAL for task in tasks),
            f"{len(ids)} ended tasks",
            within_s,
        )
        return tasks

    async def until_running(self, ids: Sequence[str]) -> list[FakeTask]:
        """Wait until these tasks are leased; return them."""
        tasks = [self.tasks[task_id] for task_id in ids]
        await self.until(lambda: all(task.token for task in tasks), f"{len(ids)} running tasks")
        return tasks

    def story(self) -> str:
        """Describe every task, the newest 30."""
        return "\n".join(
            f"  {task_id}: {task.state} ends={task.ends} error={task.error!r}"
            for task_id, task in list(self.tasks.items())[-30:]
        )

    async def notify(self) -> None:
        """Wake the callers that wait for a fact or for a task."""
        async with self._changed:
            self._changed.notify_all()

    # ---------------------------------------------------------------- what workers ask

    async def Claim(
        self, request: ClaimRequest, context: Context[ClaimRequest, ClaimResponse]
    ) -> ClaimResponse:
        received_s = time.monotonic()
        if self.mute:
            await asyncio.Event().wait()
        if request.request_id not in self._claims:
            granted = await self._grant(request)
            if granted:
                self._claims[request.request_id] = granted
            if context.cancelled():
                self._release_all(granted)
                return ClaimResponse()
            if granted and self.hold_next_grant:
                self.hold_next_grant = False
                await asyncio.Event().wait()
            if granted and self.lose_next_claim:
                self.lose_next_claim = False
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        response = ClaimResponse()
        for task_id, token in self._claims.get(request.request_id, []):
            task = self.tasks[task_id]
            if task.token != token:
                response.lost_task_ids.append(task_id)
                continue
            claimed = ClaimedTask(
                spec=task.spec, token=token, attempt=task.attempts, lease=request.lease
            )
            claimed.waited.FromMilliseconds(int((time.monotonic() - received_s) * 1000))
            response.tasks.append(claimed)
        await self.notify()
        return response

    async def Heartbeat(
        self, request: HeartbeatRequest, context: Context[HeartbeatRequest, HeartbeatResponse]
    ) -> HeartbeatResponse:
        if self.deaf:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "deaf")
        response = HeartbeatResponse()
        for held in request.leases:
            task = self.tasks.get(held.task_id)
            result = response.results.add(task_id=held.task_id)
            if task is None or task.token != held.token:
                result.status = _Beat.STATUS_LEASE_LOST
                continue
            result.status = (
                _Beat.STATUS_CANCEL_REQUESTED if task.cancel_requested else _Beat.STATUS_RENEWED
            )
            result.lease.FromMilliseconds(self.lease_ms)
        if request.leases:
            self.heartbeats.append([held.token for held in request.leases])
        if request.HasField("usage"):
            self.usage[request.worker_id] = request.usage
        await self.notify()
        return response

    async def Report(
        self, request: ReportRequest, _context: Context[ReportRequest, ReportResponse]
    ) -> ReportResponse:
        response = ReportResponse()
        for report in request.reports:
            self.reports.append(report)
            response.results.append(self._record(report))
        self._let_go()
        await self.notify()
        return response

    async def ListWorkers(
        self,
        _request: ListWorkersRequest,
        _context: Context[ListWorkersRequest, ListWorkersResponse],
    ) -> ListWorkersResponse:
        return ListWorkersResponse()

    lease_ms = 30_000
    """The lease length: claims set it, heartbeats renew it."""

    async def _grant(self, request: ClaimRequest) -> list[tuple[str, int]]:
        self.lease_ms = request.lease.ToMilliseconds()
        wanted = set(request.queues)

        def claimable() -> list[str]:
            return [
                each
                for each in self.ready
                if (spec := self.tasks[each].spec).queue in wanted
                and (not request.types or spec.type in request.types)
                and spec.type not in request.except_types
            ]

        async with self._changed:
            self.claimants += 1
            self._changed.notify_all()
            try:
                async with asyncio.timeout(request.wait.ToMilliseconds() / 1000):
                    await self._changed.wait_for(lambda: bool(claimable()))
            except TimeoutError:
                return []
            finally:
                self.claimants -= 1
        granted = []
        for task_id in claimable()[: request.max_tasks]:
            self.ready.remove(task_id)
            task = self.tasks[task_id]
            self._token += 1
            task.state, task.token, task.worker_id = "RUNNING", self._token, request.worker_id
            task.attempts += 1
            granted.append((task_id, self._token))
        return granted

    def _release_all(self, granted: Sequence[tuple[str, int]]) -> None:
        for task_id, _ in granted:
            self.tasks[task_id].attempts -= 1
            self._free(self.tasks[task_id])

    def _free(self, task: FakeTask) -> None:
        task.state, task.token = "PENDING", 0
        self.ready.append(task.spec.task_id)

    def _let_go(self) -> None:
        """Free or end the tasks whose dependencies have ended; all of these have to hold."""
        changed = True
        while changed:
            blocked = [task for task in self.tasks.values() if task.state == "BLOCKED"]
            changed = any([self._has_let_go(task) for task in blocked])  # noqa: C419 - each is looked at

    def _has_let_go(self, task: FakeTask) -> bool:
        ended = 0
        for each in task.spec.depends_on:
            state = self.tasks[each.task_id].state
            if state not in TERMINAL:
                continue
            ended += 1
            wanted = each.condition != Dependency.CONDITION_NOT_COMPLETED
            if each.condition != Dependency.CONDITION_ENDED and (state == "COMPLETED") != wanted:
                task.state, task.ended_by = "FAILED" if wanted else "CANCELLED", each.task_id
                return True
        if ended < len(task.spec.depends_on):
            return False
        self._free(task)
        return True

    def _record(self, report: TaskReport) -> ReportResult:
        result = ReportResult(task_id=report.task_id)
        task = self.tasks.get(report.task_id)
        if task is None:
            result.status = _Told.STATUS_NOT_FOUND
        elif report.token in task.outcomes:
            result.status = _Told.STATUS_ALREADY_RECORDED
        elif report.token != task.token:
            result.status = _Told.STATUS_LEASE_LOST
        elif report.HasField("complete") and report.complete.result == self.refused_result:
            result.status = _Told.STATUS_REFUSED
            result.error.message = "the result is too large"
        else:
            self._end(task, report)
            result.status = (
                _Told.STATUS_CANCELLED if task.state == "CANCELLED" else _Told.STATUS_RECORDED
            )
        if task is not None:
            result.state = TaskState.Value(f"TASK_STATE_{task.state}")
        return result

    def _end(self, task: FakeTask, report: TaskReport) -> None:
        token, task.token = task.token, 0
        if report.HasField("complete"):
            task.state, task.result, end = "COMPLETED", report.complete.result, "completed"
        elif task.cancel_requested:
            task.state, end = "CANCELLED", "cancelled"
        elif report.HasField("release") and report.release.HasField("pause"):
            task.state, task.error = "RETRYING", report.release.reason
            end = "unfit" if report.release.HasField("give_up_after") else "snoozed"
            task.attempts -= 1
        elif report.HasField("release"):
            task.error, end = report.release.reason, "released"
            task.attempts -= 1
            self._free(task)
        elif report.fail.permanent or task.attempts >= task.spec.max_attempts:
            task.state, task.error = "FAILED", report.fail.error
            end = "permanent" if report.fail.permanent else "failed"
        else:
            task.error, end = report.fail.error, "failed"
            self._free(task)
        task.ends.append(end)
        task.errors.append(report.fail.error or report.release.reason)
        task.outcomes[token] = end
