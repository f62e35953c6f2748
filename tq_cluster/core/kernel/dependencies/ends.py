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
    group_of,
    is_hopeless,
    put_edge,
    read_dependencies,
    status_of,
    status_of_deleted,
)
from tq_cluster.core.kernel.dependencies.giving_up import first_that_broke_it, give_up
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
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, owner))
    if found is None:
        return Progress(0, complete=True)
    parent = state_pb2.TaskRow.FromString(found)
    if parent.redrives != job.generation:
        return Progress(0, complete=True)  # a later continuation does all of it
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


def _align(
    space: Space, owner: int, parent: state_pb2.TaskRow, key: bytes, edge: state_pb2.DependentRow
) -> Generator[None, None, int]:
    """Bring one dependent in line; return how many further items that cost."""
    number = tables.split_number(key)
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, number))
    assert found is not None, f"task {number} depends on task {owner}, and is gone"
    row = state_pb2.TaskRow.FromString(found)
    status = status_of(edge.condition, parent)
    if row.state == states.BLOCKED:
        if (edge.status, edge.redrives) == (status, parent.redrives):
            return 0
        count(row, edge.status, -1)
        count(row, status, 1)
        edge.status, edge.redrives = status, parent.redrives
        put_edge(space, key, edge)
        queue = space.queue(row.queue_id)
        if row.dependencies_held >= row.dependencies_needed:
            transitions.unblock(space, queue, number, row)
        elif is_hopeless(row):
            give_up(space, queue, number, row, owner, edge, parent)
        space.put_task(number, row)
        return (yield from mark_parents(space, number, row))
    # What has let others go stays as it is.
    if _failed_through(row, owner) and status != BROKEN and not row.let_go:
        return (yield from take_back(space, number, row))
    return 0


def _failed_through(row: state_pb2.TaskRow, owner: int) -> bool:
    by_a_parent = row.failure_reason == task_pb2.FAILURE_REASON_DEPENDENCY
    return by_a_parent and row.ended_by == owner


def take_back(space: Space, number: int, row: state_pb2.TaskRow) -> Generator[None, None, int]:
    """Let a task that failed through a parent wait again; return how many items that cost.

    Other parents may have ended meanwhile: all its dependencies are looked at again.
    """
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    row.dependencies_open = row.dependencies_held = 0
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        yield
        found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, parent_number))
        if found is None:
            count(row, status_of_deleted(dependency), 1)
            continue
        parent = state_pb2.TaskRow.FromString(found)
        status = status_of(dependency.condition, parent)
        count(row, status, 1)
        edge = state_pb2.DependentRow(
            condition=dependency.condition,
            otherwise=dependency.otherwise,
            status=status,
            redrives=parent.redrives,
        )
        group = group_of(dependency)
        put_edge(space, tables.dependent_key(space.prefix, parent_number, group, number), edge)
    queue = space.queue(row.queue_id)
    broken = first_that_broke_it(space, number, row) if is_hopeless(row) else None
    if is_hopeless(row) and broken is None:
        space.put_task(number, row)  # through parents that are gone: it stays as it is
        return len(all_of_it.on)
    transitions.reopen(space, queue, number, row, states.BLOCKED)
    if broken is not None:
        give_up(space, queue, number, row, *broken)  # as another parent's end asks
    elif row.dependencies_held >= row.dependencies_needed:
        transitions.unblock(space, queue, number, row)
    space.put_task(number, row)
    if row.has_dependents:
        changed(space, number, row)
    return len(all_of_it.on) + (yield from mark_parents(space, number, row))


FEATURE: Final = Feature(
    name="dependencies",
    since=continuations.CONTINUATIONS_VERSION,
    steps=Moments(end=(_tell_dependents,)),
    continuations={state_pb2.ContinuationRow.KIND_DEPENDENTS: _align_all},
    audits=(audit,),
)
