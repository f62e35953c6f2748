"""Tasks that come with dependencies, and go with them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import (
    count,
    group_of,
    is_hopeless,
    put_edge,
    read_dependencies,
    status_of,
)
from tq_cluster.core.kernel.dependencies.giving_up import give_up
from tq_cluster.core.kernel.dependencies.looking import look_at_all
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.rows import rows, tables


def attach(
    space: Space,
    spec: task_pb2.TaskSpec,
    number: int,
    row: state_pb2.TaskRow,
    task_ids: Sequence[str],
    on: Sequence[int],
) -> Generator[None, None, None]:
    """Store the dependencies of a new task, before it arrives.

    ``task_ids`` and ``on`` name its parents, by id and by number. The parents exist; those that
    have ended count at once.
    """
    row.has_dependencies = True
    row.dependencies_needed = spec.need or len(on)
    stored = state_pb2.DependenciesRow(on=on)
    for dependency, task_id, parent_number in zip(spec.depends_on, task_ids, on, strict=True):
        parent = rows.read_task(space.workspace, space.prefix, parent_number)
        status = status_of(dependency.condition, parent)
        count(row, status, 1)
        edge = state_pb2.DependentRow(
            condition=dependency.condition,
            otherwise=dependency.otherwise,
            status=status,
            redrives=parent.redrives,
        )
        group = group_of(dependency)
        if group == tables.AFTER_FAILURE:
            row.after_failure = True
        put_edge(space, tables.dependent_key(space.prefix, parent_number, group, number), edge)
        stored.depends_on.add(
            task_id=task_id, condition=dependency.condition, otherwise=dependency.otherwise
        )
        if not parent.has_dependents:
            parent.has_dependents = True
            space.put_task(parent_number, parent)
        yield
    space.workspace.put(
        tables.DEPENDENCIES,
        tables.number_key(space.prefix, number),
        stored.SerializeToString(deterministic=True),
    )


def settle_new(
    space: Space, queue: Queue, number: int, row: state_pb2.TaskRow
) -> Generator[None, None, None]:
    """End a task that has just arrived, if its parents have ended so that it can never start."""
    if row.state == states.BLOCKED and is_hopeless(row):
        standing = yield from look_at_all(space, number)
        broken = standing.what_broke_it(row.dependencies_needed)
        assert broken is not None, "its parents are there"
        give_up(space, queue, number, row, standing, broken)


def forget(space: Space, number: int) -> Generator[None, None, int]:
    """Remove the dependencies of a task that is being removed; return how many rows that were."""
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        yield
        key = tables.dependent_key(space.prefix, parent_number, group_of(dependency), number)
        space.workspace.delete(tables.DEPENDENTS, key)
        transitions.retire_now(space, parent_number)
    space.workspace.delete(tables.DEPENDENCIES, tables.number_key(space.prefix, number))
    return len(all_of_it.on) + 1
