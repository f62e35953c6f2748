"""Bring dependents in line with the task that they wait for.

A task with dependencies is BLOCKED until enough of them hold. Its row counts those that are open
and those that hold, so that a task with a thousand of them costs no more when one parent ends than
a task with two. Each dependency has a row under its parent, with what was last made of it.

When a parent ends, or is redriven, a continuation goes through these rows and brings each in line
with how the parent stands then. It is one procedure for every change and may run any number of
times: so an end that is met by a redrive halfway, and by another end after that, comes out right.

A dependency no longer changes once its task has left BLOCKED: every attempt sees the same. Only a
task that failed through a parent which is redriven goes back.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import continuations, transitions
from tq_cluster.core.kernel.batch import Moments, Progress, Space
from tq_cluster.core.kernel.dependencies.audit import audit
from tq_cluster.core.kernel.dependencies.edges import (
    BROKEN,
    count,
    edges_from,
    is_hopeless,
    put_edge,
    read_dependencies,
    status_of,
)
from tq_cluster.core.kernel.dependencies.giving_up import give_up
from tq_cluster.core.kernel.dependencies.looking import look_at_all
from tq_cluster.core.kernel.dependencies.marking import mark_parents
from tq_cluster.core.kernel.feature import Feature
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.rows import tables


def _tell_dependents(space: Space, _queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    if row.has_dependents:
        changed(space, number, row)


def changed(space: Space, number: int, row: state_pb2.TaskRow) -> None:
    """Bring the dependents of a task in line with it: it has ended, or was redriven."""
    kind = state_pb2.ContinuationRow.KIND_DEPENDENTS
    continuations.begin(space, kind, number, row.redrives)


def _align_all(
    space: Space, job: state_pb2.ContinuationRow, items_max: int
) -> Generator[None, None, Progress]:
    """Bring the next dependents of a task in line with how it stands."""
    owner = job.owner
    parent = _find(space, owner)
    if parent is None or parent.redrives != job.generation:
        return Progress(0, complete=True)  # a later continuation does all of it
    returning = _returning(space, owner, parent)
    if returning is not None:
        # It failed with a task that is redriven by now: its dependents are told once it is back.
        items = yield from take_back(space, *returning)
        if items:
            return Progress(items, complete=False)
    start = job.cursor + b"\0" if job.cursor else tables.number_key(space.prefix, owner)
    edges = edges_from(space, start, owner, items_max + 1)
    items = 0
    for key, value in edges[:items_max]:
        yield
        items += 1
        edge = state_pb2.DependentRow.FromString(value)
        items += yield from _align(space, owner, parent, key, edge)
        job.cursor = key
        if items >= items_max:
            break
    return Progress(items, complete=not edges or job.cursor == edges[-1][0])


def _find(space: Space, number: int) -> state_pb2.TaskRow | None:
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, number))
    return None if found is None else state_pb2.TaskRow.FromString(found)


def _returning(
    space: Space, number: int, row: state_pb2.TaskRow
) -> tuple[int, state_pb2.TaskRow] | None:
    """Return the task above a failed one that is about to be taken back with its parent."""
    for _ in range(LEVELS_MAX):
        if row.failure_reason != task_pb2.FAILURE_REASON_DEPENDENCY or row.let_go:
            return None
        above = _find(space, row.ended_by)
        if above is None:
            return None
        all_of_it = read_dependencies(space.workspace, space.prefix, number)
        dependency = all_of_it.depends_on[list(all_of_it.on).index(row.ended_by)]
        if status_of(dependency.condition, above) != BROKEN:
            return number, row
        number, row = row.ended_by, above
    return None


LEVELS_MAX: Final = 16


def _align(
    space: Space, owner: int, parent: state_pb2.TaskRow, key: bytes, edge: state_pb2.DependentRow
) -> Generator[None, None, int]:
    """Bring one dependent in line; return how many further items that cost."""
    number = tables.split_number(key)
    row = _find(space, number)
    assert row is not None, f"task {number} depends on task {owner}, and is gone"
    status = status_of(edge.condition, parent)
    if row.state == states.BLOCKED:
        if (edge.status, edge.redrives) == (status, parent.redrives):
            return 0
        count(row, edge.status, -1)
        count(row, status, 1)
        edge.status, edge.redrives = status, parent.redrives
        put_edge(space, key, edge)
        items = yield from _go_on(space, number, row)
        space.put_task(number, row)
        return items + (yield from mark_parents(space, number, row))
    if status != BROKEN and not row.let_go and _failed_through(space, number, row, owner):
        return (yield from take_back(space, number, row))
    return 0


def _go_on(space: Space, number: int, row: state_pb2.TaskRow) -> Generator[None, None, int]:
    """Let a BLOCKED task start, end, or wait on; return how many items that cost."""
    queue = space.queue(row.queue_id)
    enough = row.dependencies_held >= row.dependencies_needed
    if enough and not row.after_failure:
        # What completed stays so: the counts are right.
        transitions.unblock(space, queue, number, row)
        return 0
    if not (enough or is_hopeless(row)):
        return 0
    standing = yield from look_at_all(space, number, row)
    if row.dependencies_held >= row.dependencies_needed:
        transitions.unblock(space, queue, number, row)
    elif is_hopeless(row):
        broken = standing.what_broke_it(row.dependencies_needed)
        if broken is not None:
            give_up(space, queue, number, row, standing, broken)
    return standing.items


def _failed_through(space: Space, number: int, row: state_pb2.TaskRow, owner: int) -> bool:
    """Whether a task failed through this parent, or needs only some of several."""
    if row.failure_reason != task_pb2.FAILURE_REASON_DEPENDENCY:
        return False
    if row.ended_by == owner:
        return True
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    return row.dependencies_needed < len(all_of_it.on)


def take_back(space: Space, number: int, row: state_pb2.TaskRow) -> Generator[None, None, int]:
    """Let a task that failed through a parent wait again; return how many items that cost.

    Other parents may have ended meanwhile: all its dependencies are looked at again. 0 items: it
    stays as it is, since a parent that it needs is gone, or it would fail through the same one.
    """
    failed_through = row.ended_by
    standing = yield from look_at_all(space, number)
    needed = row.dependencies_needed
    broken = standing.what_broke_it(needed) if standing.is_hopeless(needed) else None
    if standing.is_hopeless(needed) and (broken is None or broken.parent_number == failed_through):
        return 0
    yield from look_at_all(space, number, row)
    queue = space.queue(row.queue_id)
    transitions.reopen(space, queue, number, row, states.BLOCKED)
    if broken is not None:
        give_up(space, queue, number, row, standing, broken)  # as another parent's end asks
    elif row.dependencies_held >= needed:
        transitions.unblock(space, queue, number, row)
    space.put_task(number, row)
    if row.has_dependents:
        changed(space, number, row)
    return 2 * standing.items + (yield from mark_parents(space, number, row))


FEATURE: Final = Feature(
    name="dependencies",
    since=continuations.CONTINUATIONS_VERSION,
    steps=Moments(end=(_tell_dependents,)),
    continuations={state_pb2.ContinuationRow.KIND_DEPENDENTS: _align_all},
    audits=(audit,),
)
