"""What the dependents of a task forbid: its redrive, or its removal."""

from __future__ import annotations

from typing import Final, NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import HOLDS, edges_from, is_skipped
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import MINUTE_MS
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.rows import rows, tables

DEPENDENTS_LOOKED_AT: Final = 100
"""How many dependents of a task a call looks at before it removes or redrives the task."""


def keeps_from_redrive(space: Space, number: int, row: state_pb2.TaskRow) -> Refused | None:
    """Return why a dead letter is not to be redriven: what its end has set off cannot be undone.

    Tasks that only wait, or that failed with it, are taken back; these forbid nothing.
    """
    if not row.has_dependents:
        return None
    start = tables.dependent_key(space.prefix, number, tables.AFTER_FAILURE, 0)
    edges = edges_from(space, start, number, DEPENDENTS_LOOKED_AT)
    for key, value in edges:
        dependent = tables.split_number(key)
        found = rows.read_task(space.workspace, space.prefix, dependent)
        edge = state_pb2.DependentRow.FromString(value)
        let_go = edge.status == HOLDS and edge.redrives == row.redrives
        may_have_run = found.state not in states.TERMINAL or found.token
        if found.state == states.BLOCKED or not (
            (let_go and may_have_run) or (is_skipped(found) and found.ended_by == number)
        ):
            continue
        name = rows.read_spec(space.workspace, space.prefix, dependent).task_id
        what = "was skipped" if is_skipped(found) else "was let go"
        return _has_dependents(
            name, f"task {name} {what} because this one failed; with force it stays as it is"
        )
    if len(edges) == DEPENDENTS_LOOKED_AT:
        return _has_dependents(
            "", "over 100 tasks depend on its failure; with force those that were let go stay so"
        )
    return None


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
