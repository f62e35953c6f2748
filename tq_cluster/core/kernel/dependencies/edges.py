"""What a dependency has become, and its row.

A task waits for its parents, which have it as a dependent. A dependency has a row under its parent.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.model import states
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View

_Dependency = task_pb2.Dependency
_STATUS = task_pb2.DependencyStatus
Condition: TypeAlias = task_pb2.Dependency.Condition.ValueType
Status: TypeAlias = task_pb2.DependencyStatus.Status.ValueType

OPEN: Final = _STATUS.STATUS_OPEN
HOLDS: Final = _STATUS.STATUS_HOLDS
BROKEN: Final = _STATUS.STATUS_BROKEN


def is_skipped(row: state_pb2.TaskRow) -> bool:
    """Return whether a task was skipped; to its dependents it counts as completed."""
    return row.cancel_reason == task_pb2.CANCEL_REASON_SKIPPED


def status_of(condition: Condition, parent: state_pb2.TaskRow) -> Status:
    """Return what a dependency on this parent is, as the parent stands."""
    if parent.state not in states.TERMINAL:
        return OPEN
    if parent.failure_reason == task_pb2.FAILURE_REASON_UNCERTAIN:
        return OPEN  # how it ended is not known
    if condition == _Dependency.CONDITION_ENDED:
        return HOLDS
    completed = parent.state == states.COMPLETED or is_skipped(parent)
    return HOLDS if completed != (condition == _Dependency.CONDITION_NOT_COMPLETED) else BROKEN


def status_of_deleted(dependency: task_pb2.Dependency) -> Status:
    """Return what a dependency is whose parent is gone, once its task waits again.

    Only dead letters are ever removed before a task that failed through a parent.
    """
    needs_success = dependency.condition <= _Dependency.CONDITION_COMPLETED
    return BROKEN if needs_success else HOLDS


def skips(dependency: task_pb2.Dependency | state_pb2.DependentRow) -> bool:
    """Return whether a task is skipped once this dependency leaves it no hope; else it fails."""
    if dependency.otherwise == _Dependency.OTHERWISE_UNSPECIFIED:
        return dependency.condition == _Dependency.CONDITION_NOT_COMPLETED
    return dependency.otherwise == _Dependency.OTHERWISE_SKIP


def group_of(dependency: task_pb2.Dependency) -> int:
    """Return where a dependency stands in DEPENDENTS.

    AFTER_FAILURE holds those that a failure of the parent may start or skip: no redrive of the
    parent undoes that.
    """
    needs_success = dependency.condition in (
        _Dependency.CONDITION_UNSPECIFIED,
        _Dependency.CONDITION_COMPLETED,
    )
    if needs_success and not skips(dependency):
        return tables.AFTER_SUCCESS
    return tables.AFTER_FAILURE


def count(row: state_pb2.TaskRow, status: Status, by: int) -> None:
    """Count dependencies of a status in the row of their task."""
    if status == OPEN:
        row.dependencies_open += by
    elif status == HOLDS:
        row.dependencies_held += by


def is_hopeless(row: state_pb2.TaskRow) -> bool:
    """Return whether too few of a task's dependencies hold or are open."""
    return row.dependencies_held + row.dependencies_open < row.dependencies_needed


def put_edge(space: Space, key: bytes, edge: state_pb2.DependentRow) -> None:
    """Store a dependency."""
    space.workspace.put(tables.DEPENDENTS, key, edge.SerializeToString(deterministic=True))


def edges_from(space: Space, start: bytes, owner: int, limit: int) -> list[tuple[bytes, bytes]]:
    """Return rows of the dependents of ``owner``, from a key on."""
    stop = tables.number_key(space.prefix, owner + 1)
    return list(space.workspace.scan(tables.DEPENDENTS, start, stop, limit=limit))


def read_dependencies(view: View, prefix: bytes, number: int) -> state_pb2.DependenciesRow:
    """Return what a task depends on; it has dependencies."""
    found = find_dependencies(view, prefix, number)
    assert found is not None, f"task {number} has no dependencies"
    return found


def find_dependencies(view: View, prefix: bytes, number: int) -> state_pb2.DependenciesRow | None:
    """Return what a task depends on; None if it depends on nothing, or is gone."""
    row = view.get(tables.DEPENDENCIES, tables.number_key(prefix, number))
    return None if row is None else state_pb2.DependenciesRow.FromString(row)


def read_edge(
    view: View, prefix: bytes, parent: int, dependency: task_pb2.Dependency, number: int
) -> state_pb2.DependentRow | None:
    """Return what was made of one dependency of a task; None if the parent is gone."""
    key = tables.dependent_key(prefix, parent, group_of(dependency), number)
    row = view.get(tables.DEPENDENTS, key)
    return None if row is None else state_pb2.DependentRow.FromString(row)
