"""Submit tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2, task_service_pb2
from tq_cluster.core.kernel import request_ids, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.kernel.validation import check_count, check_spec, item_error, too_large
from tq_cluster.core.model.ids import derived_id
from tq_cluster.core.model.limits import SECOND_MS
from tq_cluster.core.model.operations import Refused, Replied, Steps, Submit
from tq_cluster.core.model.proto_time import to_ms, to_ms_up
from tq_cluster.core.model.types import DurationMs, TaskId
from tq_cluster.core.rows import rows, tables
from tq_common.limits import MAX_ATTEMPTS_DEFAULT
from tq_common.traceparents import parse_traceparent

_NO_ROOM: Final = Refused(
    reason=errors_pb2.ERROR_REASON_DISK_PRESSURE,
    message="fewer members than a majority have room on their disks: new tasks are refused until"
    " there is room; reports, cancels and reads go on",
    retry_after_ms=DurationMs(10 * SECOND_MS),
)


def decide_submit(space: Space, operation: Submit) -> Steps:
    """Create the tasks of a call; each is accepted or refused on its own."""
    request = operation.request
    fault = check_count("tasks", len(request.tasks), space.limits.submit_tasks_max)
    if fault is not None:
        return fault
    method = state_pb2.RequestRow.METHOD_SUBMIT
    recalled = request_ids.recall(space, operation.caller, method, request, operation.body_digest)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return (yield from _replay(space, operation, recalled))
    if operation.disk_pressure:
        return _NO_ROOM
    fault = _check_bytes(space, request)
    if fault is not None:
        return fault
    reply = task_service_pb2.SubmitResponse()
    memory = state_pb2.RequestRow()
    traceparent = operation.caller.traceparent
    if not parse_traceparent(traceparent):
        traceparent = ""  # a header can be anything
    for item, spec in enumerate(request.tasks):
        task_id = TaskId(spec.task_id) or derived_id(operation.id_seed, item)
        fault = check_spec(spec, space.limits, space.now_ms) or find_taken(space, task_id)
        if fault is None:
            created = reply.results.add().task
            created.task_id = task_id
            created.state = create(space, spec, task_id, traceparent).state
        elif keeps(spec, fault):
            kept = reply.results.add().task
            kept.task_id, kept.existed = task_id, True
            kept.state = _state_of(space, task_id)
            memory.skipped.append(item)
        else:
            reply.results.add().error.CopyFrom(item_error(fault))
            memory.refused.append(item)
        yield
    if len(memory.refused) < len(request.tasks):
        request_ids.remember(space, recalled, memory)
    return Replied(reply=reply)


def keeps(spec: task_pb2.TaskSpec, fault: Refused) -> bool:
    """Return whether a spec, refused for ``fault``, accepts the existing task of its id."""
    taken = fault.reason == errors_pb2.ERROR_REASON_TASK_EXISTS
    return taken and spec.if_exists == task_pb2.IF_EXISTS_KEEP


def _state_of(space: Space, task_id: TaskId) -> task_pb2.TaskState.ValueType:
    """Return a task's state; UNSPECIFIED if it is gone."""
    found = rows.find_task(space.workspace, space.prefix, task_id)
    return found[1].state if found is not None else task_pb2.TASK_STATE_UNSPECIFIED


def _check_bytes(space: Space, request: task_service_pb2.SubmitRequest) -> Refused | None:
    """Check the total of the payloads, except those that are too large by themselves."""
    limits = space.limits
    sizes = (len(spec.payload) for spec in request.tasks)
    total = sum(size for size in sizes if size <= limits.payload_bytes_max)
    if total <= limits.submit_bytes_max:
        return None
    return too_large("tasks", total, limits.submit_bytes_max)


def find_taken(space: Space, task_id: TaskId) -> Refused | None:
    """Return a refusal if a task has this id already."""
    if space.workspace.get(tables.TASK_IDS, tables.name_key(space.prefix, task_id)) is None:
        return None
    return _taken(task_id)


def _taken(task_id: TaskId) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_TASK_EXISTS,
        message=f"another request has created a task of the id {task_id}",
        field="task_id",
        metadata={"field": "task_id", "task_id": task_id},
    )


def create(
    space: Space, spec: task_pb2.TaskSpec, task_id: TaskId, traceparent: str = ""
) -> state_pb2.TaskRow:
    """Create the task of a checked spec under a free id.

    ``traceparent`` is the trace context for a spec that names none.
    """
    queue = space.queue_or_new(spec.queue)
    number = space.next_task_number()
    now_ms = space.now_ms
    row = state_pb2.TaskRow()
    row.queue_id = queue.queue_id
    row.priority = spec.priority
    row.type_digest = type_digest(spec.type)
    row.max_attempts = spec.max_attempts or MAX_ATTEMPTS_DEFAULT
    row.submitted_at_ms = now_ms
    row.due_at_ms = max(now_ms, to_ms_up(spec.run_at)) if spec.HasField("run_at") else now_ms
    if spec.HasField("expire_at"):
        row.expire_at_ms = max(1, to_ms(spec.expire_at))
    if spec.HasField("retention"):
        row.retention_ms = to_ms(spec.retention)
    row.payload_chunks = rows.put_spec(
        space.workspace, space.prefix, number, spec, task_id, traceparent
    )
    id_key = tables.name_key(space.prefix, task_id)
    space.workspace.put(tables.TASK_IDS, id_key, number.to_bytes(8, "big"))
    transitions.arrive(space, queue, number, row)
    space.put_task(number, row)
    return row


def check_together(
    space: Space, specs: Sequence[task_pb2.TaskSpec], task_ids: Sequence[TaskId], field: str
) -> Refused | None:
    """Check tasks to be created all or none; a fault names the item in ``field``.

    A task that accepts an existing one of its id is not created either way.
    """
    seen: set[TaskId] = set()
    for item, (spec, task_id) in enumerate(zip(specs, task_ids, strict=True)):
        fault = check_spec(spec, space.limits, space.now_ms) or find_taken(space, task_id)
        if fault is not None and keeps(spec, fault):
            fault = None
        elif fault is None and task_id in seen and spec.if_exists != task_pb2.IF_EXISTS_KEEP:
            fault = Refused(
                reason=errors_pb2.ERROR_REASON_TASK_EXISTS,
                message=f"two tasks of this report have the id {task_id}",
                field="task_id",
                metadata={"task_id": task_id},
            )
        if fault is not None:
            where = f"{field}[{item}].{fault.field}"
            return Refused(
                reason=fault.reason,
                message=f"{field}[{item}]: {fault.message}",
                field=where,
                metadata={**fault.metadata, "field": where},
            )
        seen.add(task_id)
    return None


def _replay(space: Space, operation: Submit, row: state_pb2.RequestRow) -> Steps:
    """Answer a repeated call with the same ids and refusals, and with the present states."""
    reply = task_service_pb2.SubmitResponse()
    refused, kept = set(row.refused), set(row.skipped)
    for item, spec in enumerate(operation.request.tasks):
        yield
        result = reply.results.add()
        task_id = TaskId(spec.task_id) or derived_id(operation.id_seed, item)
        if item in refused:
            fault = check_spec(spec, space.limits, row.at_ms) or _taken(task_id)
            result.error.CopyFrom(item_error(fault))
            continue
        result.task.task_id = task_id
        result.task.existed = item in kept
        result.task.state = _state_of(space, task_id)
    return Replied(reply=reply)


FEATURE: Final = Feature(name="submit", decisions=(decides(Submit, decide_submit),))
