"""What the dependents of a task forbid: its redrive, or its removal."""

from __future__ import annotations

from typing import Final, NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import (
    BROKEN,
    edges_from,
    read_dependencies,
    status_of,
)
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import MINUTE_MS
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.rows import rows, tables

DEPENDENTS_LOOKED_AT: Final = 100
"""How many dependents of a task a call looks at before it removes or redrives the task."""


def keeps_from_redrive(space: Space, row: state_pb2.TaskRow) -> Refused | None:
    """Return why a dead letter is not to be redriven: what its end has set off cannot be undone.

    Tasks that only wait, or that failed with it, are taken back; these forbid nothing.
    """
    if not row.let_go:
        return None
    found = space.workspace.get(tables.SPECS, tables.number_key(space.prefix, row.let_go))
    name = "" if found is None else task_pb2.TaskSpec.FromString(found).task_id
    return _has_dependents(
        name,
        f"task {name or 'that is gone by now'} was started or skipped because this one failed;"
        " with force it stays as it is",
    )


def failed_through(
    space: Space, number: int, row: state_pb2.TaskRow
) -> tuple[str, task_pb2.TaskState.ValueType] | None:
    """Return id and state of the parent through which a task failed and would fail again."""
    parent_number = row.ended_by
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, parent_number))
    if found is None:
        return None
    parent = state_pb2.TaskRow.FromString(found)
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    dependency = all_of_it.depends_on[list(all_of_it.on).index(parent_number)]
    if status_of(dependency.condition, parent) != BROKEN:
        return None
    return dependency.task_id, parent.state


class Hold(NamedTuple):
    """Why a task is not removed yet."""

    why: Refused
    again_in_ms: int
    """When its dependents are worth another look."""


_PUT_OFF_MS: Final = MINUTE_MS


def keeps_from_removal(
    space: Space, number: int, row: state_pb2.TaskRow, *, is_dead: bool = False
) -> Hold | None:
    """Return why a terminal task is not to be removed; if there is nothing, forget its dependents.

    ``is_dead``: an operator deletes this dead letter, and with it the way back of the tasks that
    failed through it.
    """
    if not row.has_dependents:
        return None
    start = tables.number_key(space.prefix, number)
    edges = edges_from(space, start, number, DEPENDENTS_LOOKED_AT + 1)
    for key, _ in edges[:DEPENDENTS_LOOKED_AT]:
        dependent = tables.split_number(key)
        found = rows.read_task(space.workspace, space.prefix, dependent)
        may_wait_again = found.failure_reason == task_pb2.FAILURE_REASON_DEPENDENCY and not is_dead
        if found.state not in states.TERMINAL or may_wait_again:
            name = rows.read_spec(space.workspace, space.prefix, dependent).task_id
            why = _has_dependents(name, f"task {name} depends on it, and may still need it")
            return Hold(why, _PUT_OFF_MS)
    over = len(edges) > DEPENDENTS_LOOKED_AT
    if over and is_dead:
        return Hold(_has_dependents("", "it has over 100 dependents: it goes after them"), 0)
    for key, _ in edges[:DEPENDENTS_LOOKED_AT]:
        space.workspace.delete(tables.DEPENDENTS, key)
    if over:
        return Hold(_has_dependents("", "it has over 100 dependents: they go first"), 0)
    return None


def _has_dependents(task_id: str, message: str) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_HAS_DEPENDENTS,
        message=message,
        field="task_id",
        metadata={"field": "task_id", "task_id": task_id},
    )
