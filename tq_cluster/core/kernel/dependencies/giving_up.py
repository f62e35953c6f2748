"""End a task of which too few dependencies are left."""

from __future__ import annotations

from typing import NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import (
    BROKEN,
    is_skipped,
    read_dependencies,
    skips,
    status_of,
)
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.rows import rows, tables


class _Broken(NamedTuple):
    """A dependency that can no longer hold, in the order in which they came to that."""

    finished_at_ms: int
    parent: int
    place: int


def first_that_broke_it(
    space: Space, number: int, row: state_pb2.TaskRow
) -> tuple[int, state_pb2.DependentRow, state_pb2.TaskRow] | None:
    """Return parent, dependency and parent's row of the end after which too few were left."""
    found: list[_Broken] = []
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    for place, (parent_number, dependency) in enumerate(
        zip(all_of_it.on, all_of_it.depends_on, strict=True)
    ):
        value = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, parent_number))
        if value is None:
            continue
        parent = state_pb2.TaskRow.FromString(value)
        if status_of(dependency.condition, parent) == BROKEN:
            found.append(_Broken(parent.finished_at_ms, parent_number, place))
    spare = len(all_of_it.on) - row.dependencies_needed
    if len(found) <= spare:
        return None
    _, parent_number, place = sorted(found)[spare]
    dependency = all_of_it.depends_on[place]
    edge = state_pb2.DependentRow(condition=dependency.condition, otherwise=dependency.otherwise)
    return parent_number, edge, rows.read_task(space.workspace, space.prefix, parent_number)


def give_up(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    owner: int,
    edge: state_pb2.DependentRow,
    parent: state_pb2.TaskRow,
) -> None:
    """End a BLOCKED task of which too few dependencies are left, as the last one of them asks."""
    row.ended_by = owner
    task_id = rows.read_spec(space.workspace, space.prefix, number).task_id
    if skips(edge):
        row.cancel_reason = task_pb2.CANCEL_REASON_SKIPPED
        transitions.finish(space, queue, number, row, task_id, states.CANCELLED)
    elif parent.state == states.CANCELLED and not is_skipped(parent):
        row.cancel_reason = task_pb2.CANCEL_REASON_DEPENDENCY
        transitions.finish(space, queue, number, row, task_id, states.CANCELLED)
    else:
        reason = task_pb2.FAILURE_REASON_DEPENDENCY
        transitions.fail(space, queue, number, row, task_id, reason)
