"""Filling tables for what was there before them, while everything goes on.

A table may be kept from some entry on and needed of every task, also of those from before, which
are millions, perhaps. Four rules make that safe, for every such table:

- from the entry on that begins it, each decision keeps the table, whether it is full or not:
  ``counters.kept_tables`` names it. That is the entry which raises the cluster version to the one
  that brings the table or, for a table that costs every task something and serves few, the first
  entry with a call that is in need of it;
- what was there before is gone through by its key, in slices of bounded rows: one slice is one
  operation of the leader, and its entry holds both what it wrote and where the next one begins.
  Whoever leads next goes on from there, and so does whoever restores a backup of it;
- nothing reads the table before all of it is there: ``counters.filled_tables`` says so. Until then
  what it is for is done as it was before, at a bounded cost;
- to fill a row twice, or one that has changed since, does no harm.

Another table is one more entry of KEPT, and two looks at those two lists; ``core/invariants.py``
says of it what holds of a table half filled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core import ordering, tables
from tq_cluster.core.batch import BY_TYPE_VERSION, Space
from tq_cluster.core.operations import Done, Filled, FillTables
from tq_cluster.core.view import View, Workspace

_FIRST_KEY: Final = b"\x00"
_NO_KEY: Final = b"\xff"
"""Above every key: the group is their first byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """From when on a table is kept, and how it is filled."""

    version: int
    """The cluster version that brings it."""
    on_demand: bool
    """Whether it is kept only once a call was in need of it."""
    source: int
    """The table that is gone through."""
    fill: Callable[[Workspace, bytes, bytes], int]
    """Writes what a row of the source leads to, and returns how many rows were read for it."""


KEPT: Final[Mapping[int, Kept]] = {
    # For every task one row more to write and to delete: a tenth of what a submit costs. A claim of
    # types is in need of it once it has to pass over tasks of others.
    tables.READY_BY_TYPE: Kept(
        version=BY_TYPE_VERSION,
        on_demand=True,
        source=tables.READY,
        fill=ordering.fill_by_type,
    )
}
"""By the tables' numbers, in the order in which they are filled."""


def begin(space: Space, version: int) -> None:
    """Have the tables of a cluster version that is now in force kept from here on."""
    for table, kept in KEPT.items():
        if kept.version <= version and not kept.on_demand:
            _keep(space, table, kept)


def need(space: Space, table: int) -> bool:
    """Have a table that a call is in need of kept from here on; whether it can be read already."""
    counters = space.counters
    if table not in counters.kept_tables and KEPT[table].version <= _cluster_version(space):
        _keep(space, table, KEPT[table])
    return table in counters.filled_tables


def _keep(space: Space, table: int, kept: Kept) -> None:
    counters = space.counters
    if table in counters.kept_tables:
        return
    counters.kept_tables.append(table)
    space.batch.keeps_types = tables.READY_BY_TYPE in counters.kept_tables
    if _next_rows(space.workspace, kept.source, b"", 1):
        space.wakeups.to_fill = True
    else:
        counters.filled_tables.append(table)
    space.batch.changed = True


def _cluster_version(space: Space) -> int:
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    return state_pb2.ClusterRow.FromString(found or b"").cluster_version


def _unfilled(counters: state_pb2.CountersRow) -> list[int]:
    return [table for table in counters.kept_tables if table not in counters.filled_tables]


def is_under_way(view: View) -> bool:
    """Whether there is anything left to fill."""
    found = view.get(tables.META, tables.COUNTERS_KEY)
    return bool(_unfilled(state_pb2.CountersRow.FromString(found or b"")))


def progress(view: View) -> state_pb2.BackfillRow:
    """Return how far the filling has come; as new if none is under way."""
    return state_pb2.BackfillRow.FromString(view.get(tables.META, tables.BACKFILL_KEY) or b"")


def decide_fill(space: Space, operation: FillTables) -> Done:
    """Fill what the next rows lead to, about ``rows_max`` of them, and note where they end.

    There may be more, and no hurry: the leader has the next slice decided when it sees fit.
    """
    unfilled = _unfilled(space.counters)
    if not unfilled:
        return Done(more=False)
    row = progress(space.workspace)
    left = operation.rows_max
    space.batch.changed = True
    while left > 0:
        row.table = unfilled[0]
        read, complete = _fill_slice(space.workspace, row, left)
        left -= read
        if complete:
            space.counters.filled_tables.append(unfilled.pop(0))
            row.from_key = b""
            if not unfilled:
                space.wakeups.filled = Filled(row.rows, complete=True)
                space.workspace.delete(tables.META, tables.BACKFILL_KEY)
                return Done(more=False)
    value = row.SerializeToString(deterministic=True)
    space.workspace.put(tables.META, tables.BACKFILL_KEY, value)
    space.wakeups.filled = Filled(row.rows, complete=False)
    return Done(more=False, items=operation.rows_max)


def _fill_slice(
    workspace: Workspace, row: state_pb2.BackfillRow, rows_max: int
) -> tuple[int, bool]:
    """Go on with the table of ``row``, and note in it where the next slice begins.

    Returns how many rows were read, and whether that was all of the table.
    """
    kept = KEPT[row.table]
    found = _next_rows(workspace, kept.source, row.from_key, rows_max)
    read = 0
    for key, value in found:
        if read >= rows_max:
            return read, False
        read += kept.fill(workspace, key, value)
        row.from_key = key + b"\x00"
        row.rows += 1
    return max(1, read), len(found) < rows_max


def _next_rows(
    workspace: Workspace, source: int, from_key: bytes, limit: int
) -> list[tuple[bytes, bytes]]:
    return list(workspace.scan(source, from_key or _FIRST_KEY, _NO_KEY, limit=limit))
