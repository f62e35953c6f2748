"""Submitting tasks, waiting for them, reading and cancelling them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias, Unpack, cast

from tq.v1.task_pb2 import TaskSpec
from tq.v1.task_service_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    SubmitRequest,
    SubmitResponse,
    SubmitTogetherRequest,
    WaitTaskRequest,
)
from tq.v1.worker_service_pb2 import (
    ListWorkersRequest,
    ListWorkersResponse,
)
from tq_client import errors, methods, offenders, tracing
from tq_client.coalescer import BATCH_BYTES_MAX, Coalescer
from tq_client.enums import ReadLevel, TaskState
from tq_client.errors import Reason
from tq_client.model import Cancellation, Task
from tq_client.services.base import Service, copy, level
from tq_client.specs import SpecFields, make_spec
from tq_common.limits import CALL_DEPENDENCIES_MAX, PAGE_SIZE_MAX, SUBMIT_TASKS_MAX

if TYPE_CHECKING:
    from tq.v1 import task_pb2

    _States: TypeAlias = list[task_pb2.TaskState.ValueType]


WAIT_SLICE_S = 30.0
"""How long one WaitTask call is held; a longer wait takes several calls."""

_CLAIMABLE = frozenset({TaskState.PENDING, TaskState.RETRYING})
EXPLAINED_S = 1.0
"""Shorter waits get no explanation: their callers poll."""
LOOK_S = 2.0
"""How long finding the explanation of a timeout may take."""
LOOK_AGAIN_S = 5.0
HEARD_OF_ALL = timedelta(seconds=30)
"""By then a leader has heard from every live worker: longer than a long poll."""


class TaskCalls(Service):
    """Calls of TaskService."""

    _coalescer: Coalescer
    _look: asyncio.Task[ListWorkersResponse] | None = None
    """The last request for the workers, made at `_looked_at_s` by the loop's clock."""
    _looked_at_s = 0.0

    async def submit(
        self,
        queue: str,
        task_type: str,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        **fields: Unpack[SpecFields],
    ) -> str:
        """Submit one task; returns its id once a majority of the brokers has it on disk.

        Concurrent calls share one RPC. To submit a task only once across restarts of your program,
        give it a ``task_id``: a second submit raises ConflictError, unless if_exists="keep".
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
        """Submit many tasks; returns, in their order, the id of each, or its error.

        They are sent in calls of up to 1,000 tasks, one after the other. The refusal of one task
        does not affect the others; `submit_together` creates all tasks or none.
        """
        deadline_s = asyncio.get_running_loop().time() + self._within(timeout_s)
        outcomes: list[str | errors.TqError] = []
        with tracing.submission() as submission:
            for batch in _batches(submission.stamp_all(specs)):
                outcomes.extend(await self._submit_each(batch, deadline_s))
            submission.answered(outcomes)
        return outcomes

    async def submit_together(
        self, specs: Iterable[TaskSpec], *, timeout_s: float | None = None
    ) -> list[str]:
        """Submit tasks that wait for each other, all or none; returns their ids, in their order.

        A whole number in ``depends_on`` names another task of the call by its position, from 0;
        the order is free. One call has at most 1,000 tasks, 10,000 dependencies, and 10 MiB of
        payloads. ``field`` of an error names the task: "tasks[3].depends_on[0].item".

        Raises:
            InvalidArgumentError: a value out of range, or too many; reason CYCLE if tasks wait for
                each other in a circle.
            NotFoundError: a task of ``depends_on`` does not exist.
            ConflictError: a task with one of the ids exists, and the new one does not say
                if_exists="keep".
            UnsupportedError: the brokers, or some of them, are too old.
        """
        with tracing.submission() as submission:
            request = SubmitTogetherRequest(tasks=submission.stamp_all(specs))
            count = len(request.tasks)
            if count > SUBMIT_TASKS_MAX:
                raise errors.of_reason(
                    Reason.INVALID_ARGUMENT,
                    f"submit_together has {count:,} tasks; at most {SUBMIT_TASKS_MAX:,} are"
                    " created together. Submit the first ones, and name them by their ids in the"
                    " depends_on of the others",
                    field="tasks",
                    metadata={"limit": str(SUBMIT_TASKS_MAX), "actual": str(count)},
                )
            task_ids: list[str] = []
            if count:
                answer = await self._caller.call(
                    methods.SUBMIT_TOGETHER,
                    request,
                    timeout_s=self._within(timeout_s),
                    traceparent=tracing.traceparent_in(request.tasks[0]),
                )
                task_ids = [task.task_id for task in answer.reply.tasks]
            submission.answered(task_ids)
        return task_ids

    async def _submit_each(
        self, batch: Sequence[TaskSpec], deadline_s: float
    ) -> list[str | errors.TqError]:
        """Submit tasks in one call, or more if it is refused for some of them (`offenders`)."""
        outcomes: dict[int, str | errors.TqError] = {}
        calls: deque[tuple[Sequence[int], bool]] = deque([(range(len(batch)), False)])
        while calls:
            positions, again = calls.popleft()
            specs = [batch[at] for at in positions]
            left_s = deadline_s - asyncio.get_running_loop().time()
            try:
                response = await self._submit(SubmitRequest(tasks=specs), left_s)
            except errors.TqError as error:
                blame = offenders.find(specs, error, again=again)
                if blame is None:
                    outcomes.update(dict.fromkeys(positions, error))
                    continue
                if blame.offender is not None:
                    outcomes[positions[blame.offender]] = offenders.own(error, blame.offender)
                calls.extend(([positions[at] for at in part], True) for part in blame.again)
                continue
            for at, result in zip(positions, response.results, strict=True):
                failed = result.HasField("error")
                outcomes[at] = errors.of_item(result.error) if failed else result.task.task_id
        return [outcomes[at] for at in range(len(batch))]

    async def get(
        self,
        task_id: str,
        *,
        omit_payload: bool = False,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> Task:
        """Get one task; raises NotFoundError if there is none with this id."""
        request = GetTaskRequest(
            task_id=task_id, omit_payload=omit_payload, read_level=level(read_level)
        )
        answer = await self._caller.call(
            methods.GET_TASK, request, timeout_s=self._within(timeout_s)
        )
        return Task.of(answer.reply.task)

    async def wait(
        self, task_id: str, *, omit_payload: bool = False, timeout_s: float | None = None
    ) -> Task:
        """Wait until a task is COMPLETED, FAILED or CANCELLED, and return it.

        Raises TimeoutError after ``timeout_s``; the task goes on. The error says what a BLOCKED
        task waits for, and if no live worker claims such a task.
        """
        loop = asyncio.get_running_loop()
        within_s = self._within(timeout_s)
        deadline_s = loop.time() + within_s
        while True:
            left_s = deadline_s - loop.time()
            hold_s = max(0.0, min(WAIT_SLICE_S, left_s))
            request = WaitTaskRequest(task_id=task_id, omit_payload=omit_payload)
            request.wait.FromMicroseconds(int(hold_s * 1e6))
            # A little longer than the broker holds the call, so that its last answer arrives.
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
        """Say what a task waits for, or that no live worker claims it; empty unless certain."""
        if task.state not in _CLAIMABLE:
            return f": {note}" if (note := task.dependency_note) else ""
        try:
            found = await self._live_workers()
        except errors.TqError:
            return ""
        if found.next_page_token or found.observed.ToTimedelta() < HEARD_OF_ALL:
            return ""  # there are other workers than these, or there may be
        live = [each for each in found.workers if not each.lost]
        if not all(each.queues for each in live):
            return ""  # a busy worker may not have claimed since this leader was elected
        serving = [each for each in live if task.queue in each.queues]
        if not serving:
            return f": no live worker claims from queue {task.queue!r}"
        # A busy worker may claim other types later; older brokers do not report types.
        known = all(each.types and not each.any_type and not each.leases for each in serving)
        if known and not any(task.type in each.types for each in serving):
            return f": no live worker of queue {task.queue!r} claims type {task.type!r}"
        return ""

    async def _live_workers(self) -> ListWorkersResponse:
        """List the workers, at most `LOOK_AGAIN_S` old: timeouts at about one time share a call."""
        loop = asyncio.get_running_loop()
        if self._look is None or loop.time() - self._looked_at_s > LOOK_AGAIN_S:
            self._looked_at_s = loop.time()
            self._look = loop.create_task(self._look_for_workers())
        return await asyncio.shield(self._look)

    async def _look_for_workers(self) -> ListWorkersResponse:
        answer = await self._caller.call(
            methods.LIST_WORKERS, ListWorkersRequest(page_size=PAGE_SIZE_MAX), timeout_s=LOOK_S
        )
        return answer.reply

    async def cancel(self, task_id: str, *, timeout_s: float | None = None) -> Cancellation:
        """Cancel a task; if it runs, its worker is asked to stop and may still finish it."""
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
        """Iterate over the matching tasks, newest first; each without payload and result."""
        request = ListTasksRequest(
            queue=queue,
            states=cast("_States", states),
            type=task_type,
            page_size=page_size,
            read_level=level(read_level),
        )
        request.labels.update(labels or {})
        while True:
            answer = await self._caller.call(
                methods.LIST_TASKS, copy(request), timeout_s=self._timeout_s
            )
            for task in answer.reply.tasks:
                yield Task.of(task)
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    async def _submit(self, request: SubmitRequest, timeout_s: float) -> SubmitResponse:
        # Not the active span: submits of several callers share the call. Brokers take the traces of
        # the other tasks from the tasks.
        traceparent = tracing.traceparent_in(request.tasks[0])
        answer = await self._caller.call(
            methods.SUBMIT, request, timeout_s=timeout_s, traceparent=traceparent
        )
        return answer.reply


def _batches(specs: Iterable[TaskSpec]) -> Iterable[list[TaskSpec]]:
    """Split specs into batches for one call each: at least one task, however large."""
    batch: list[TaskSpec] = []
    batch_bytes = batch_dependencies = 0
    for spec in specs:
        spec_bytes, dependencies = spec.ByteSize(), len(spec.depends_on)
        if batch and (
            len(batch) == SUBMIT_TASKS_MAX
            or batch_bytes + spec_bytes > BATCH_BYTES_MAX
            or batch_dependencies + dependencies > CALL_DEPENDENCIES_MAX
        ):
            yield batch
            batch, batch_bytes, batch_dependencies = [], 0, 0
        batch.append(spec)
        batch_bytes += spec_bytes
        batch_dependencies += dependencies
    if batch:
        yield batch
