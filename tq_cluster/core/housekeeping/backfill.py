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

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.kept_tables import KEPT, next_rows
from tq_cluster.core.model.operations import Done, Filled, FillTables
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View, Workspace


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
    found = next_rows(workspace, kept.source, row.from_key, rows_max)
    read = 0
    for key, value in found:
        if read >= rows_max:
            return read, False
        read += kept.fill(workspace, key, value)
        row.from_key = key + b"\x00"
        row.rows += 1
    return max(1, read), len(found) < rows_max
