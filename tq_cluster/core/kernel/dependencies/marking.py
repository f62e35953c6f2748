"""Mark the failures that have started or skipped a task: no redrive undoes that.

A refund starts because a charge failed. If the charge were redriven now, both could happen. So the
charge is marked, and so is what the charge failed through, upwards: a redrive of any of these would
take the charge back. The mark names the task that was let go.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import (
    BROKEN,
    HOLDS,
    is_skipped,
    read_dependencies,
    status_of,
)
from tq_cluster.core.model import states
from tq_cluster.core.rows import tables

LEVELS_MAX: Final = 100
"""How far up one mark goes."""


def mark_parents(space: Space, number: int, row: state_pb2.TaskRow) -> Generator[None, None, int]:
    """Mark the failed parents that have let a task go, or had it skipped; return how many items.

    To be called once the task has left BLOCKED, or has arrived in another state.
    """
    skipped = is_skipped(row)
    started = row.after_failure and row.state not in (states.BLOCKED, *states.TERMINAL)
    if not (skipped or started):
        return 0
    cause = BROKEN if skipped else HOLDS
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    items = len(all_of_it.on)
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        yield
        parent = _find(space, parent_number)
        if parent is None or parent.state != states.FAILED:
            continue
        if status_of(dependency.condition, parent) == cause:
            items += yield from _mark(space, parent_number, number)
    return items


def _mark(space: Space, number: int, let_go: int) -> Generator[None, None, int]:
    """Mark a failed task, and what it failed through.

    A redrive from further above than ``LEVELS_MAX`` is not refused; it takes back nothing that is
    marked.
    """
    items = 0
    row = _find(space, number)
    while row is not None and row.state == states.FAILED and not row.let_go:
        if items == LEVELS_MAX:
            break
        row.let_go = let_go
        space.put_task(number, row)
        items += 1
        yield
        if row.failure_reason != task_pb2.FAILURE_REASON_DEPENDENCY:
            break
        number = row.ended_by
        row = _find(space, number)
    return items


def _find(space: Space, number: int) -> state_pb2.TaskRow | None:
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, number))
    return None if found is None else state_pb2.TaskRow.FromString(found)
