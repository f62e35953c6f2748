"""What the dependents of a task forbid: its redrive, or its removal."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import edges_from
from tq_cluster.core.kernel.dependencies.looking import look_at_all
from tq_cluster.core.model import states
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


def fails_again(
    space: Space, number: int, row: state_pb2.TaskRow
) -> Generator[None, None, str | None]:
    """Return why a task that failed through a parent would fail again; None if it could wait."""
    standing = yield from look_at_all(space, number)
    if not standing.is_hopeless(row.dependencies_needed):
        return None
    broken = standing.what_broke_it(row.dependencies_needed)
    if broken is None:
        return "failed because of a task that was deleted meanwhile: it cannot run any more"
    parent = rows.read_task(space.workspace, space.prefix, broken.parent_number)
    name = standing.all_of_it.depends_on[broken.place].task_id
    state = task_pb2.TaskState.Name(parent.state).removeprefix("TASK_STATE_")
    advice = ": redrive that one" if parent.state == states.FAILED else ""
    return f"failed because task {name} is {state}{advice}"


class Hold(NamedTuple):
    """Why a task is not removed yet."""

    why: Refused
    ended: bool = False
    """Whether those looked at have ended, and there are more."""


def keeps_from_removal(
    space: Space, number: int, row: state_pb2.TaskRow, *, is_dead: bool = False
) -> Hold | None:
    """Return why a terminal task is not to be removed yet; None: it may be.

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
            return Hold(_has_dependents(name, f"task {name} depends on it, and may still need it"))
    if len(edges) > DEPENDENTS_LOOKED_AT:
        why = _has_dependents("", "it has over 100 dependents: it goes after them")
        return Hold(why, ended=True)
    return None


def forget_dependents(space: Space, number: int) -> None:
    """Forget the first dependents of a task past its retention: they have ended, too."""
    start = tables.number_key(space.prefix, number)
    for key, _ in edges_from(space, start, number, DEPENDENTS_LOOKED_AT):
        space.workspace.delete(tables.DEPENDENTS, key)


def _has_dependents(task_id: str, message: str) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_HAS_DEPENDENTS,
        message=message,
        field="task_id",
        metadata={"field": "task_id", "task_id": task_id},
    )
