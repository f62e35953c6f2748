"""The client for asyncio programs."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar, Unpack, cast

from google.protobuf.message import Message

from tq.v1.cluster_service_pb2 import (
    GetClusterStatusRequest,
    GetClusterStatusResponse,
    ReplaceNodeRequest,
    ReplaceNodeResponse,
    TransferLeadershipRequest,
    VerifyStateRequest,
    VerifyStateResponse,
)
from tq.v1.queue_service_pb2 import (
    ConfigureQueueRequest,
    DeleteDeadLettersRequest,
    DeleteDeadLettersResponse,
    DeleteQueueRequest,
    GetQueueStatsRequest,
    ListDeadLettersRequest,
    ListQueuesRequest,
    PurgeQueueRequest,
    RedriveRequest,
    RedriveResponse,
)
from tq.v1.task_pb2 import TaskSpec
from tq.v1.task_service_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    SubmitRequest,
    SubmitResponse,
    WaitTaskRequest,
)
from tq.v1.worker_service_pb2 import (
    ClaimRequest,
    ClaimResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    ListWorkersRequest,
    ListWorkersResponse,
    ReportRequest,
    ReportResponse,
)
from tq_client import errors, forks, methods, tracing
from tq_client.calls import Answer, Caller
from tq_client.coalescer import BATCH_BYTES_MAX, TASKS_MAX, Coalescer
from tq_client.connections import Connections, FollowLeader
from tq_client.enums import ReadLevel, TaskState
from tq_client.model import Cancellation, QueueSettings, QueueStats, Task
from tq_client.specs import SpecFields, make_spec
from tq_process.addresses import listed

if TYPE_CHECKING:
    from tq.v1 import task_pb2, task_service_pb2

    _States: TypeAlias = list[task_pb2.TaskState.ValueType]
    _Level: TypeAlias = task_service_pb2.ReadLevel.ValueType

DEFAULT_ADDRESSES = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"
TIMEOUT_S = 30.0
WAIT_SLICE_S = 30.0
"""How long one WaitTask call is held: a longer wait is made of several."""

_Message = TypeVar("_Message", bound=Message)


_CLAIMABLE = frozenset({TaskState.PENDING, TaskState.RETRYING})
EXPLAINED_S = 1.0
"""Waits that are over sooner are not explained: who waits so looks again and again."""
LOOK_S = 2.0
"""How long a wait that is over may take to see why."""
LOOK_AGAIN_S = 5.0
HEARD_OF_ALL = timedelta(seconds=30)
"""A leader has heard of every live worker by then: within a long poll."""


class AsyncClient:
    """A queue's brokers, as one object.

    Every method makes its call until it is answered or ``timeout_s`` has passed, and repeats it
    only where that is safe. Made and used on one event loop. ``async with`` closes it.
    """

    def __init__(
        self,
        addresses: str | Iterable[str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        follow_leader: FollowLeader = "auto",
        draw: random.Random | None = None,
    ) -> None:
        """Connect on the first call.

        Args:
            addresses: brokers as host:port, as a list or separated by commas. One is enough, more
            are asked in
                turn while one is down. Default: the environment's TQ_ADDRESS, else the ports of
                `tq-cluster dev`.
            timeout_s: how long a call may take that names no other time.
            follow_leader: ``never`` calls no broker at an address that was not given; the others
                forward to the leader. ``auto`` calls the leader itself, unless all addresses are on
                this machine and the leader's is not, as behind a tunnel.
            draw: the source of jitter.
        """
        forks.check()
        if addresses is None:
            addresses = os.environ.get("TQ_ADDRESS") or DEFAULT_ADDRESSES
        ring = listed(addresses)
        draw = draw or random.Random()
        self._timeout_s = timeout_s
        loop = asyncio.get_running_loop()
        self._look: asyncio.Task[ListWorkersResponse] | None = None
        """Who works, as it was last asked, at `_looked_at_s` by the loop's clock."""
        self._looked_at_s = 0.0
        self._caller = Caller(Connections(ring, loop.time, draw, follow_leader), draw)
        self._coalescer = Coalescer(self._submit)
        forks.opened(self._caller)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every call in flight, telling each caller whether it may have been applied."""
        await self._caller.close()
        await self._coalescer.close()
        forks.closed(self._caller)

    # --- tasks ---

    async def submit(
        self,
        queue: str,
        task_type: str,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        **fields: Unpack[SpecFields],
    ) -> str:
        """Submit one task and return its id, once it is on the disks of a majority.

        Concurrent calls share one RPC. To submit the same task once across restarts of your
        program, name it: ``task_id=...`` fails with ConflictError the second time.
        """
        spec = make_spec("submit", queue, task_type, payload, fields, ("timeout_s",))
        with tracing.submission() as submission:
            spec = submission.stamp(spec)
            task_id = (await self._coalescer.submit(spec, self._within(timeout_s))).task_id
            submission.answered([task_id])
            return task_id

    async def submit_many(
        self, specs: Iterable[TaskSpec], *, timeout_s: float | None = None
    ) -> list[str | errors.TqError]:
        """Submit many tasks; return, in their order, the id of each or why it was not created.

        They go in calls of up to 1,000 tasks, one after the other; one task's refusal does not
        touch the rest.
        """
        deadline_s = asyncio.get_running_loop().time() + self._within(timeout_s)
        outcomes: list[str | errors.TqError] = []
        with tracing.submission() as submission:
            for batch in _batches(submission.stamp_all(specs)):
                left_s = deadline_s - asyncio.get_running_loop().time()
                try:
                    response = await self._submit(SubmitRequest(tasks=batch), left_s)
                except errors.TqError as error:
                    outcomes.extend([error] * len(batch))
                    continue
                outcomes.extend(
                    errors.of_item(result.error)
                    if result.HasField("error")
                    else result.task.task_id
                    for result in response.results
                )
            submission.answered(outcomes)
        return outcomes

    async def get(
        self,
        task_id: str,
        *,
        omit_payload: bool = False,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> Task:
        """Look one task up; NotFoundError where there is none."""
        request = GetTaskRequest(
            task_id=task_id, omit_payload=omit_payload, read_level=_level(read_level)
        )
        answer = await self._caller.call(
            methods.GET_TASK, request, timeout_s=self._within(timeout_s)
        )
        return Task.of(answer.reply.task)

    async def wait(
        self, task_id: str, *, omit_payload: bool = False, timeout_s: float | None = None
    ) -> Task:
        """Wait until a task is COMPLETED, FAILED or CANCELLED and return it.

        TimeoutError where it is not within ``timeout_s``; the task goes on.
        """
        loop = asyncio.get_running_loop()
        within_s = self._within(timeout_s)
        deadline_s = loop.time() + within_s
        while True:
            left_s = deadline_s - loop.time()
            hold_s = max(0.0, min(WAIT_SLICE_S, left_s))
            request = WaitTaskRequest(task_id=task_id, omit_payload=omit_payload)
            request.wait.FromMicroseconds(int(hold_s * 1e6))
            # A little longer than the broker holds it: its answer at the end of the wait is the
            # one to report.
            answer = await self._caller.call(
                methods.WAIT_TASK, request, timeout_s=max(left_s, hold_s) + 1.0, hold_s=hold_s
            )
            if answer.reply.finished:
                return Task.of(answer.reply.task)
            if loop.time() >= deadline_s:
                task = Task.of(answer.reply.task)
                why = await self._why_it_waits(task) if within_s >= EXPLAINED_S else ""
                raise TimeoutError(f"task {task_id} is {task.state} after {within_s:g} s{why}")

    async def _why_it_waits(self, task: Task) -> str:
        """Say that no live worker claims such a task, if that is sure; empty else."""
        if task.state not in _CLAIMABLE:
            return ""
        try:
            found = await self._live_workers()
        except errors.TqError:
            return ""
        if found.next_page_token or found.observed.ToTimedelta() < HEARD_OF_ALL:
            return ""  # there are others than these, or there may be
        live = [each for each in found.workers if not each.lost]
        if not all(each.queues for each in live):
            return ""  # one that is busy has not claimed since this leader leads
        serving = [each for each in live if task.queue in each.queues]
        if not serving:
            return f": no live worker claims from queue {task.queue!r}"
        # One that is busy may claim others later; brokers of before say nothing of types.
        known = all(each.types and not each.any_type and not each.leases for each in serving)
        if known and not any(task.type in each.types for each in serving):
            return f": no live worker of queue {task.queue!r} claims type {task.type!r}"
        return ""

    async def _live_workers(self) -> ListWorkersResponse:
        """Who works, of a moment ago: one look is for all whose waits are over."""
        loop = asyncio.get_running_loop()
        if self._look is None or loop.time() - self._looked_at_s > LOOK_AGAIN_S:
            self._looked_at_s = loop.time()
            self._look = loop.create_task(self._look_for_workers())
        return await asyncio.shield(self._look)

    async def _look_for_workers(self) -> ListWorkersResponse:
        answer = await self._caller.call(
            methods.LIST_WORKERS, ListWorkersRequest(page_size=1_000), timeout_s=LOOK_S
        )
        return answer.reply

    async def cancel(self, task_id: str, *, timeout_s: float | None = None) -> Cancellation:
        """Cancel a task. A running one is marked: its worker is told and may still finish it."""
        answer = await self._caller.call(
            methods.CANCEL_TASK,
            CancelTaskRequest(task_id=task_id),
            timeout_s=self._within(timeout_s),
        )
        return Cancellation.of(answer.reply)

    async def list_tasks(
        self,
        *,
        queue: str = "",
        states: Sequence[TaskState] = (),
        task_type: str = "",
        labels: Mapping[str, str] | None = None,
        page_size: int = 0,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
    ) -> AsyncIterator[Task]:
        """Go through the tasks that match, newest first; each without payload and result."""
        request = ListTasksRequest(
            queue=queue,
            states=cast("_States", states),
            type=task_type,
            page_size=page_size,
            read_level=_level(read_level),
        )
        request.labels.update(labels or {})
        while True:
            answer = await self._caller.call(
                methods.LIST_TASKS, _copy(request), timeout_s=self._timeout_s
            )
            for task in answer.reply.tasks:
                yield Task.of(task)
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    # --- queues ---

    async def queue_stats(
        self,
        queue: str,
        *,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> QueueStats:
        """Count a queue's tasks by state; NotFoundError where no task ever named it."""
        request = GetQueueStatsRequest(queue=queue, read_level=_level(read_level))
        answer = await self._caller.call(
            methods.GET_QUEUE_STATS, request, timeout_s=self._within(timeout_s)
        )
        return QueueStats.of(answer.reply.stats)

    async def list_queues(
        self, *, read_level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> AsyncIterator[QueueStats]:
        """Go through all queues by name, a page a call."""
        request = ListQueuesRequest(read_level=_level(read_level))
        while True:
            answer = await self._caller.call(
                methods.LIST_QUEUES, _copy(request), timeout_s=self._timeout_s
            )
            for stats in answer.reply.queues:
                yield QueueStats.of(stats)
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    async def configure_queue(
        self,
        queue: str,
        settings: QueueSettings,
        *,
        fields: Sequence[str] = (),
        must_exist: bool = False,
        etag: str = "",
        timeout_s: float | None = None,
    ) -> QueueSettings:
        """Set a queue's settings; OutcomeUnknownError where the first answer was lost.

        ``fields`` are those to set ("ordering", "aging", "paused"), the others stay; none: all.
        ``must_exist``: NotFoundError instead of a new queue. ``etag`` is that of settings which
        were read before: ConflictError if they are others by now.
        """
        request = ConfigureQueueRequest(
            queue=queue, settings=settings.message, must_exist=must_exist, etag=etag
        )
        if fields:
            request.update_mask.paths.extend(fields)
        answer = await self._caller.call(
            methods.CONFIGURE_QUEUE, request, timeout_s=self._within(timeout_s)
        )
        return QueueSettings.of(answer.reply.settings)

    async def delete_queue(self, queue: str, *, timeout_s: float | None = None) -> None:
        """Remove a queue that holds no task in any state; ConflictError if it does."""
        await self._caller.call(
            methods.DELETE_QUEUE, DeleteQueueRequest(queue=queue), timeout_s=self._within(timeout_s)
        )

    async def dead_letters(
        self,
        *,
        queue: str = "",
        page_size: int = 0,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
    ) -> AsyncIterator[Task]:
        """Go through the FAILED tasks, newest first, with the history of their attempts."""
        request = ListDeadLettersRequest(
            queue=queue, page_size=page_size, read_level=_level(read_level)
        )
        while True:
            answer = await self._caller.call(
                methods.LIST_DEAD_LETTERS, _copy(request), timeout_s=self._timeout_s
            )
            for task in answer.reply.tasks:
                yield Task.of(task)
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    async def redrive(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> RedriveResponse:
        """Make dead letters pending again: those named, or the oldest of ``queue``.

        ``page_token`` is the next_page_token of the call before; `redrive_queue` makes all calls.
        """
        request = RedriveRequest(
            task_ids=task_ids, queue=queue, max_tasks=max_tasks, page_token=page_token
        )
        answer = await self._caller.call(
            methods.REDRIVE, request, timeout_s=self._within(timeout_s)
        )
        return answer.reply

    async def delete_dead_letters(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> DeleteDeadLettersResponse:
        """Remove dead letters for good: those named, or the oldest of ``queue``.

        ``page_token`` is the next_page_token of the call before; `clear_dead_letters` makes all
        calls.
        """
        request = DeleteDeadLettersRequest(
            task_ids=task_ids, queue=queue, max_tasks=max_tasks, page_token=page_token
        )
        answer = await self._caller.call(
            methods.DELETE_DEAD_LETTERS, request, timeout_s=self._within(timeout_s)
        )
        return answer.reply

    async def redrive_queue(self, queue: str, *, max_tasks: int = 0) -> AsyncIterator[int]:
        """Make all of a queue's dead letters pending again; yields how many after each slice.

        Those that die, or die again, after it began are left alone.
        """
        page_token = ""
        while True:
            reply = await self.redrive(queue=queue, max_tasks=max_tasks, page_token=page_token)
            yield reply.redriven
            page_token = reply.next_page_token
            if not page_token:
                return

    async def clear_dead_letters(self, queue: str, *, max_tasks: int = 0) -> AsyncIterator[int]:
        """Remove all of a queue's dead letters for good; yields how many after each slice.

        Those that die after it began stay.
        """
        page_token = ""
        while True:
            reply = await self.delete_dead_letters(
                queue=queue, max_tasks=max_tasks, page_token=page_token
            )
            yield reply.deleted
            page_token = reply.next_page_token
            if not page_token:
                return

    async def purge_queue(self, queue: str, *, max_tasks: int = 0) -> AsyncIterator[int]:
        """Cancel all of a queue's tasks that wait; yields how many after each slice.

        Those submitted after the purge began stay, running ones are left to finish.
        """
        request = PurgeQueueRequest(queue=queue, max_tasks=max_tasks)
        while True:
            answer = await self._caller.call(
                methods.PURGE_QUEUE, _copy(request), timeout_s=self._timeout_s
            )
            yield answer.reply.cancelled
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    # --- the cluster ---

    async def list_workers(self) -> ListWorkersResponse:
        """List all workers that the leader has heard from in the last 5 minutes, by id."""
        request, found = ListWorkersRequest(page_size=1_000), ListWorkersResponse()
        while True:
            answer = await self._caller.call(
                methods.LIST_WORKERS, _copy(request), timeout_s=self._timeout_s
            )
            found.MergeFrom(answer.reply)
            found.next_page_token = ""
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return found

    async def cluster_status(self, *, timeout_s: float | None = None) -> GetClusterStatusResponse:
        """Ask a broker how every broker is; needs no leader."""
        answer = await self._caller.call(
            methods.GET_CLUSTER_STATUS,
            GetClusterStatusRequest(),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply

    async def transfer_leadership(
        self, target_node_id: str = "", *, timeout_s: float | None = None
    ) -> str:
        """Have the leader hand over, and return the new leader's node id."""
        answer = await self._caller.call(
            methods.TRANSFER_LEADERSHIP,
            TransferLeadershipRequest(target_node_id=target_node_id),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply.leader_id

    async def verify_state(
        self, *, start: bool = False, timeout_s: float | None = None
    ) -> VerifyStateResponse:
        """Ask what comparing the brokers' states has found; ``start`` begins a pass over all."""
        answer = await self._caller.call(
            methods.VERIFY_STATE,
            VerifyStateRequest(start=start),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply

    async def replace_node(
        self, node_id: str, *, force: bool = False, timeout_s: float | None = None
    ) -> ReplaceNodeResponse:
        """Have the empty node of that name take the member's place; see docs/membership.md."""
        answer = await self._caller.call(
            methods.REPLACE_NODE,
            ReplaceNodeRequest(node_id=node_id, force=force),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply

    # --- for workers: the messages themselves, see proto/tq/v1/worker_service.proto ---

    async def claim(
        self, request: ClaimRequest, *, timeout_s: float | None = None
    ) -> Answer[ClaimResponse]:
        """Claim tasks. A lease's deadline counts from the answer's ``sent_at_s``.

        Repeated under one request_id, so that tasks granted in an answer that was lost are
        granted again. ``timeout_s`` is on top of ``request.wait``.
        """
        hold_s = request.wait.ToTimedelta() / timedelta(seconds=1)
        return await self._caller.call(
            methods.CLAIM,
            _copy(request),
            timeout_s=hold_s + self._within(timeout_s),
            hold_s=hold_s,
        )

    async def heartbeat(
        self, request: HeartbeatRequest, *, timeout_s: float | None = None
    ) -> Answer[HeartbeatResponse]:
        """Renew leases, each to its full length from the answer's ``sent_at_s``."""
        return await self._caller.call(
            methods.HEARTBEAT, request, timeout_s=self._within(timeout_s)
        )

    async def report(
        self, request: ReportRequest, *, timeout_s: float | None = None
    ) -> ReportResponse:
        """Report how attempts ended; a repeated report returns the recorded outcome."""
        answer = await self._caller.call(methods.REPORT, request, timeout_s=self._within(timeout_s))
        return answer.reply

    async def _submit(self, request: SubmitRequest, timeout_s: float) -> SubmitResponse:
        # Not that of whoever is active here: submits of several callers share the call. Brokers
        # tell the others' traces by their tasks.
        traceparent = tracing.traceparent_in(request.tasks[0])
        answer = await self._caller.call(
            methods.SUBMIT, request, timeout_s=timeout_s, traceparent=traceparent
        )
        return answer.reply

    def _within(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


def caller_of(client: AsyncClient) -> Caller:
    """Return what makes its calls, and holds its channels."""
    return client._caller  # noqa: SLF001  # of this module


def _level(read_level: ReadLevel) -> _Level:
    return cast("_Level", read_level)


def _copy(message: _Message) -> _Message:
    """Copy a request that outlives its call: a call writes request_id and retry_age into it."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _batches(specs: Iterable[TaskSpec]) -> Iterable[list[TaskSpec]]:
    """Cut into what one call may carry: at least one task, however large."""
    batch: list[TaskSpec] = []
    batch_bytes = 0
    for spec in specs:
        spec_bytes = spec.ByteSize()
        if batch and (len(batch) == TASKS_MAX or batch_bytes + spec_bytes > BATCH_BYTES_MAX):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(spec)
        batch_bytes += spec_bytes
    if batch:
        yield batch
