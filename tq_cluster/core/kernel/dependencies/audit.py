"""What must hold of dependencies in every state."""

from __future__ import annotations

from collections.abc import Iterator

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.audit import Audited, Rows
from tq_cluster.core.kernel.dependencies.edges import (
    count,
    group_of,
    is_hopeless,
    status_of,
    status_of_deleted,
)
from tq_cluster.core.model import states
from tq_cluster.core.rows import tables


def audit(state: Audited) -> Iterator[str]:
    """Check that edges, counts and states agree, but for parents whose continuation is under way.

    A task in BLOCKED has neither enough nor too few dependencies, and each of them is what its
    parent has made of it.
    """
    jobs = {
        (job.owner, job.generation)
        for job in map(
            state_pb2.ContinuationRow.FromString, state.rows(tables.CONTINUATIONS).values()
        )
        if job.kind == state_pb2.ContinuationRow.KIND_DEPENDENTS
    }
    found = state.rows(tables.DEPENDENTS)
    expected: Rows = {}
    dependencies = state.rows(tables.DEPENDENCIES)
    wanted = {
        tables.number_key(state.prefix, number): number
        for number, row in state.rows_of_tasks.items()
        if row.has_dependencies
    }
    for key in sorted(dependencies.keys() ^ wanted.keys()):
        yield f"table {tables.DEPENDENCIES}, key {key.hex()}: missing, or of no task"
    for key, value in dependencies.items():
        if key in wanted:
            yield from _audit_task(state, wanted[key], value, found, expected, jobs)
    for key in sorted(found.keys() - expected.keys()):
        yield f"table {tables.DEPENDENTS}, key {key.hex()}: belongs to nothing"


def _audit_task(
    state: Audited,
    number: int,
    value: bytes,
    found: Rows,
    expected: Rows,
    jobs: set[tuple[int, int]],
) -> Iterator[str]:
    row = state.rows_of_tasks[number]
    all_of_it = state_pb2.DependenciesRow.FromString(value)
    counted = state_pb2.TaskRow()
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        key = tables.dependent_key(state.prefix, parent_number, group_of(dependency), number)
        parent = state.rows_of_tasks.get(parent_number)
        if key not in found:
            count(counted, status_of_deleted(dependency), 1)
            if parent is not None and row.state not in states.TERMINAL:
                yield f"task {number} waits for task {parent_number}, which does not know"
            continue
        expected[key] = b""
        edge = state_pb2.DependentRow.FromString(found[key])
        count(counted, edge.status, 1)
        if parent is None:
            yield f"task {number} depends on task {parent_number}, which is gone"
            continue
        if not parent.has_dependents:
            yield f"task {parent_number} has dependents, and its row does not say so"
        if row.state != states.BLOCKED or (parent_number, parent.redrives) in jobs:
            continue
        status = status_of(edge.condition, parent)
        if edge.status != status:
            yield f"task {number} takes task {parent_number} for {edge.status}, it is {status}"
    if row.state != states.BLOCKED:
        return
    counts = (row.dependencies_open, row.dependencies_held)
    if counts != (counted.dependencies_open, counted.dependencies_held):
        yield f"task {number} counts {counts}, its dependencies say otherwise"
    if row.dependencies_held >= row.dependencies_needed or is_hopeless(row):
        yield f"task {number} is BLOCKED with {counts} of {row.dependencies_needed}"
