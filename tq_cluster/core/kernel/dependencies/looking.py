"""Look at all that a task depends on, as its parents stand now.

The counts in a task's row are as new as the last parent that told it. Another may have ended or
been redriven since, and tells it in a moment. So before a task starts because something failed, and
before it ends because too few dependencies are left, all its parents are looked at.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import (
    BROKEN,
    count,
    group_of,
    put_edge,
    read_dependencies,
    status_of,
    status_of_deleted,
)
from tq_cluster.core.rows import tables


class Broken(NamedTuple):
    """A dependency that can no longer hold; they sort in the order in which they came to that."""

    finished_at_ms: int
    parent_number: int
    place: int


class Standing(NamedTuple):
    """What a task's dependencies are."""

    all_of_it: state_pb2.DependenciesRow
    open_: int
    held: int
    broken: list[Broken]
    broken_and_gone: int
    """How many are broken whose parents are gone."""

    @property
    def items(self) -> int:
        """What the look cost, in items of a few rows."""
        return 1 + len(self.all_of_it.on)

    def is_hopeless(self, needed: int) -> bool:
        """Return whether too few hold or are open."""
        return self.held + self.open_ < needed

    def what_broke_it(self, needed: int) -> Broken | None:
        """Return the end after which too few were left; None if that parent is gone."""
        spare = max(0, len(self.all_of_it.on) - needed - self.broken_and_gone)
        return sorted(self.broken)[spare] if len(self.broken) > spare else None


def look_at_all(
    space: Space, number: int, row: state_pb2.TaskRow | None = None
) -> Generator[None, None, Standing]:
    """Return what a task's dependencies are; if ``row`` is given, store and count it there."""
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    counted = state_pb2.TaskRow()
    broken: list[Broken] = []
    gone = 0
    pairs = zip(all_of_it.on, all_of_it.depends_on, strict=True)
    for place, (parent_number, dependency) in enumerate(pairs):
        yield
        found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, parent_number))
        if found is None:
            status = status_of_deleted(dependency)
            gone += status == BROKEN
            count(counted, status, 1)
            continue
        parent = state_pb2.TaskRow.FromString(found)
        status = status_of(dependency.condition, parent)
        count(counted, status, 1)
        if status == BROKEN:
            broken.append(Broken(parent.finished_at_ms, parent_number, place))
        if row is not None:
            edge = state_pb2.DependentRow(
                condition=dependency.condition,
                otherwise=dependency.otherwise,
                status=status,
                redrives=parent.redrives,
            )
            key = tables.dependent_key(space.prefix, parent_number, group_of(dependency), number)
            put_edge(space, key, edge)
    if row is not None:
        row.dependencies_open = counted.dependencies_open
        row.dependencies_held = counted.dependencies_held
    return Standing(all_of_it, counted.dependencies_open, counted.dependencies_held, broken, gone)
