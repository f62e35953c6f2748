"""Submit tasks."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2, task_service_pb2
from tq_cluster.core.kernel import request_ids, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies import attaching, marking
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.kernel.validation import (
    check_count,
    check_dependencies_in_all,
    check_spec,
    invalid,
    item_error,
    too_large,
)
from tq_cluster.core.model.ids import derived_id
from tq_cluster.core.model.limits import SECOND_MS
from tq_cluster.core.model.operations import Refused, Replied, Steps, Submit, SubmitTogether
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
    recalled = _recall(space, operation, state_pb2.RequestRow.METHOD_SUBMIT)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return (yield from _replay(space, operation, recalled))
    fault = _check_call(space, operation)
    if fault is not None:
        return fault
    reply = task_service_pb2.SubmitResponse()
    memory = state_pb2.RequestRow()
    traceparent = _traceparent(operation)
    for item, spec in enumerate(request.tasks):
        task_id = TaskId(spec.task_id) or derived_id(operation.id_seed, item)
        parents: Parents | Refused = _NO_PARENTS
        fault = check_spec(spec, space.limits, space.now_ms) or find_taken(space, task_id)
        if fault is None and spec.depends_on:
            parents = yield from find_parents(space, spec, (), ())
            fault = parents if isinstance(parents, Refused) else None
        if fault is None:
            assert not isinstance(parents, Refused)
            row = yield from create(space, spec, task_id, traceparent, parents)
            created = reply.results.add().task
            created.task_id = task_id
            created.state = row.state
        elif keeps(spec, fault):
            kept = reply.results.add().task
            kept.task_id, kept.existed = task_id, True
            kept.state = _state_of(space, task_id)
            memory.skipped.append(item)
        else:
            error = item_error(fault)
            reply.results.add().error.CopyFrom(error)
            memory.refused.append(item)
            if isinstance(parents, Refused):
                memory.refusals.add(item=item, error=error)
        yield
    if len(memory.refused) < len(request.tasks):
        request_ids.remember(space, recalled, memory)
    return Replied(reply=reply)


def _recall(
    space: Space, operation: Submit | SubmitTogether, method: request_ids.Method
) -> request_ids.Fresh | state_pb2.RequestRow | Refused:
    request = operation.request
    fault = check_count("tasks", len(request.tasks), space.limits.submit_tasks_max)
    if fault is not None:
        return fault
    return request_ids.recall(space, operation.caller, method, request, operation.body_digest)


def _check_call(space: Space, operation: Submit | SubmitTogether) -> Refused | None:
    """Check whether a new call is taken, before any of its tasks is looked at."""
    if operation.disk_pressure:
        return _NO_ROOM
    tasks = operation.request.tasks
    return _check_bytes(space, tasks) or check_dependencies_in_all("tasks", tasks, space.limits)


def _traceparent(operation: Submit | SubmitTogether) -> str:
    traceparent = operation.caller.traceparent
    return traceparent if parse_traceparent(traceparent) else ""  # a header can be anything


def decide_together(space: Space, operation: SubmitTogether) -> Steps:
    """Create all tasks of a call, or none."""
    request = operation.request
    recalled = _recall(space, operation, state_pb2.RequestRow.METHOD_SUBMIT_TOGETHER)
    if isinstance(recalled, Refused):
        return recalled
    task_ids = [
        TaskId(spec.task_id) or derived_id(operation.id_seed, item)
        for item, spec in enumerate(request.tasks)
    ]
    yield
    memory = state_pb2.RequestRow()
    if isinstance(recalled, state_pb2.RequestRow):
        memory = recalled
    else:
        fault = _check_call(space, operation)
        if fault is not None:
            return fault
        plan = yield from plan_together(space, request.tasks, task_ids, "tasks")
        if isinstance(plan, Refused):
            return plan
        yield from create_together(space, plan, _traceparent(operation))
        memory.skipped.extend(plan.kept)
        request_ids.remember(space, recalled, memory)
    reply = task_service_pb2.SubmitTogetherResponse()
    kept = set(memory.skipped)
    for item, task_id in enumerate(task_ids):
        state = _state_of(space, task_id)
        reply.tasks.add(task_id=task_id, state=state, existed=item in kept)
        yield
    return Replied(reply=reply)


def keeps(spec: task_pb2.TaskSpec, fault: Refused) -> bool:
    """Return whether a spec, refused for ``fault``, accepts the existing task of its id."""
    taken = fault.reason == errors_pb2.ERROR_REASON_TASK_EXISTS
    return taken and spec.if_exists == task_pb2.IF_EXISTS_KEEP


def _state_of(space: Space, task_id: TaskId) -> task_pb2.TaskState.ValueType:
    """Return a task's state; UNSPECIFIED if it is gone."""
    found = rows.find_task(space.workspace, space.prefix, task_id)
    return found[1].state if found is not None else task_pb2.TASK_STATE_UNSPECIFIED


def _check_bytes(space: Space, tasks: Sequence[task_pb2.TaskSpec]) -> Refused | None:
    """Check the total of the payloads, except those that are too large by themselves."""
    limits = space.limits
    sizes = (len(spec.payload) for spec in tasks)
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


class Parents(NamedTuple):
    """The tasks that a new one depends on, in the order of its spec."""

    task_ids: Sequence[TaskId]
    numbers: Sequence[int]


_NO_PARENTS: Final = Parents((), ())


def find_parents(
    space: Space,
    spec: task_pb2.TaskSpec,
    planned: Collection[TaskId],
    task_ids: Sequence[TaskId],
) -> Generator[None, None, Parents | Refused]:
    """Find the tasks that a checked spec depends on; a refusal names the first that is missing.

    ``task_ids`` are those of the call, if it creates all of its tasks or none; those ``planned``
    need not exist yet, and have the number 0.
    """
    found: dict[TaskId, int] = {}
    for place, dependency in enumerate(spec.depends_on):
        yield
        field = f"depends_on[{place}]"
        if dependency.HasField("item"):
            fault = _check_item(f"{field}.item", dependency.item, task_ids)
            if fault is not None:
                return fault
            task_id = task_ids[dependency.item]
        else:
            task_id = TaskId(dependency.task_id)
        number = rows.find_task_number(space.workspace, space.prefix, task_id)
        if number is None and task_id not in planned:
            return Refused(
                reason=errors_pb2.ERROR_REASON_NOT_FOUND,
                message=f"{field} names the task {task_id}, which does not exist: it was never"
                " submitted, or is past its retention",
                field=f"{field}.task_id",
                metadata={"field": f"{field}.task_id", "task_id": task_id},
            )
        if task_id in found:
            return invalid(field, f"names the task {task_id} a second time")
        found[task_id] = number or 0
    return Parents(tuple(found), tuple(found.values()))


def _check_item(field: str, item: int, task_ids: Sequence[TaskId]) -> Refused | None:
    if item < len(task_ids):
        return None
    if not task_ids:
        return invalid(field, "is taken only if all tasks of the call are created or none")
    return invalid(field, f"is {item}; the call has the tasks 0 to {len(task_ids) - 1}")


def create(
    space: Space,
    spec: task_pb2.TaskSpec,
    task_id: TaskId,
    traceparent: str = "",
    parents: Parents = _NO_PARENTS,
) -> Generator[None, None, state_pb2.TaskRow]:
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
    if parents.numbers:
        yield from attaching.attach(space, spec, number, row, *parents)
    transitions.arrive(space, queue, number, row)
    if parents.numbers:
        yield from attaching.settle_new(space, queue, number, row)
    space.put_task(number, row)
    if parents.numbers:
        yield from marking.mark_parents(space, number, row)
    return row


# --- tasks that are created all or none ---


class Plan(NamedTuple):
    """Tasks that can be created together."""

    specs: Sequence[task_pb2.TaskSpec]
    task_ids: Sequence[TaskId]
    order: Sequence[int]
    """The positions of those to create, each after those that it depends on."""
    kept: Sequence[int]
    """The positions of those that exist, which the call accepts."""


def plan_together(
    space: Space, specs: Sequence[task_pb2.TaskSpec], task_ids: Sequence[TaskId], field: str
) -> Generator[None, None, Plan | Refused]:
    """Check tasks to be created all or none; a fault names the item in ``field``."""
    places: dict[TaskId, int] = {}
    kept: list[int] = []
    for item, (spec, task_id) in enumerate(zip(specs, task_ids, strict=True)):
        fault = check_spec(spec, space.limits, space.now_ms) or find_taken(space, task_id)
        if task_id in places and fault is None:
            fault = _named_twice(task_id)
        if fault is not None and keeps(spec, fault):
            fault = None
            kept.append(item)
        if fault is not None:
            return _of_item(fault, f"{field}[{item}]")
        places.setdefault(task_id, item)
        yield
    parents: dict[int, Sequence[int]] = {}
    left_out = set(kept)
    for item, spec in enumerate(specs):
        if not spec.depends_on or item in left_out:
            continue
        found = yield from find_parents(space, spec, places, task_ids)
        if isinstance(found, Refused):
            return _of_item(found, f"{field}[{item}]")
        parents[item] = [places[each] for each in found.task_ids if each in places]
    order = yield from _in_order_of_creation(len(specs), parents)
    if len(order) < len(specs):
        return _cycle(order, parents, task_ids, field)
    return Plan(specs, task_ids, [item for item in order if item not in left_out], kept)


def create_together(space: Space, plan: Plan, traceparent: str = "") -> Generator[None, None, None]:
    """Create the tasks of a plan that was made in the same decision."""
    for item in plan.order:
        yield
        spec = plan.specs[item]
        parents: Parents | Refused = _NO_PARENTS
        if spec.depends_on:
            parents = yield from find_parents(space, spec, (), plan.task_ids)
        assert not isinstance(parents, Refused), "or the plan would have been refused"
        yield from create(space, spec, plan.task_ids[item], traceparent, parents)


def _in_order_of_creation(
    count: int, parents: Mapping[int, Sequence[int]]
) -> Generator[None, None, list[int]]:
    """Return items such that each stands after its parents, without those behind a circle.

    Of those that may come next, the first of the call does: so without dependencies the order is
    the call's.
    """
    children: dict[int, list[int]] = {}
    open_ = {item: len(of_item) for item, of_item in parents.items()}
    for item, of_item in parents.items():
        for parent in of_item:
            children.setdefault(parent, []).append(item)
        yield
    ready = [item for item in range(count) if not open_.get(item)]
    order: list[int] = []
    while ready:
        item = heappop(ready)
        order.append(item)
        for child in children.get(item, ()):
            open_[child] -= 1
            if not open_[child]:
                heappush(ready, child)
        yield
    return order


def _cycle(
    order: Sequence[int],
    parents: Mapping[int, Sequence[int]],
    task_ids: Sequence[TaskId],
    field: str,
) -> Refused:
    """Return the refusal of tasks that wait for each other, which are not in ``order``."""
    placed = set(order)
    item = next(item for item in parents if item not in placed)
    path: list[int] = []
    while item not in path:
        path.append(item)
        item = next(parent for parent in parents[item] if parent not in placed)
    circle = path[path.index(item) :]
    # From each to the one that waits for it, so that it reads in the order of the work.
    names = [str(task_ids[each]) for each in reversed([*circle, item])]
    if len(names) > _CYCLE_SHOWN_MAX:
        names = [*names[: _CYCLE_SHOWN_MAX // 2], "…", *names[-_CYCLE_SHOWN_MAX // 2 :]]
    where = f"{field}[{item}].depends_on"
    return Refused(
        reason=errors_pb2.ERROR_REASON_CYCLE,
        message=f"tasks wait for each other in a circle, so that none could start:"
        f" {' → '.join(names)}",
        field=where,
        metadata={"field": where},
    )


_CYCLE_SHOWN_MAX: Final = 10


def _named_twice(task_id: TaskId) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_TASK_EXISTS,
        message=f"two tasks of this call have the id {task_id}",
        field="task_id",
        metadata={"task_id": task_id},
    )


def _of_item(fault: Refused, item: str) -> Refused:
    """Return a fault in one of several tasks as one of the whole."""
    where = f"{item}.{fault.field}"
    return Refused(
        reason=fault.reason,
        message=f"{item}: {fault.message}",
        field=where,
        metadata={**fault.metadata, "field": where},
    )


def _replay(space: Space, operation: Submit, row: state_pb2.RequestRow) -> Steps:
    """Answer a repeated call with the same ids and refusals, and with the present states."""
    reply = task_service_pb2.SubmitResponse()
    refused, kept = set(row.refused), set(row.skipped)
    told = {each.item: each.error for each in row.refusals}
    for item, spec in enumerate(operation.request.tasks):
        yield
        result = reply.results.add()
        task_id = TaskId(spec.task_id) or derived_id(operation.id_seed, item)
        if item in told:
            result.error.CopyFrom(told[item])
            continue
        if item in refused:
            fault = check_spec(spec, space.limits, row.at_ms) or _taken(task_id)
            result.error.CopyFrom(item_error(fault))
            continue
        result.task.task_id = task_id
        result.task.existed = item in kept
        result.task.state = _state_of(space, task_id)
    return Replied(reply=reply)


FEATURE: Final = Feature(
    name="submit",
    decisions=(decides(Submit, decide_submit), decides(SubmitTogether, decide_together)),
)
