"""Fill new tables for older tasks while the cluster serves calls.

A table that is kept from some entry on may need rows for every task, also for older tasks, perhaps
millions. Four rules make that safe, for every such table:

- from one entry on, each decision keeps the table, whether it is full or not:
  ``counters.kept_tables`` names it. That entry raises the cluster version to the one that
  introduces the table or, for a table that costs every task something and serves few, is the first
  entry with a call that needs it;
- the backfill scans older rows by key, in slices of bounded rows: one slice is one operation of the
  leader, and its entry holds both the rows written and the key where the next slice begins. The
  next leader, or a cluster restored from a backup, continues from there;
- no call reads the table before it is complete: ``counters.filled_tables`` names it then. Until
  then calls work as they did before, at a bounded cost;
- to fill a row twice, or one that has changed since, does no harm.

Another table is a `Kept` of the feature that it belongs to, with two checks of those two lists;
that feature's audit holds the invariants of a table half filled.
"""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.batch import Kept, Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.kept_tables import next_rows, progress
from tq_cluster.core.model.operations import Done, Filled, FillTables
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View, Workspace


def _unfilled(counters: state_pb2.CountersRow) -> list[int]:
    return [table for table in counters.kept_tables if table not in counters.filled_tables]


def is_under_way(view: View) -> bool:
    """Return whether a table that is kept is not filled yet."""
    found = view.get(tables.META, tables.COUNTERS_KEY)
    return bool(_unfilled(state_pb2.CountersRow.FromString(found or b"")))


def decide_fill(space: Space, operation: FillTables) -> Done:
    """Fill the table from the next rows, about ``rows_max`` of them, and store where they end.

    ``more`` is never set: the leader itself chooses when to decide the next slice.
    """
    unfilled = _unfilled(space.counters)
    if not unfilled:
        return Done(more=False)
    row = progress(space.workspace)
    left = operation.rows_max
    space.batch.changed = True
    while left > 0:
        row.table = unfilled[0]
        kept = space.batch.kept_tables[row.table]
        read, complete = _fill_slice(space.workspace, row, kept, left)
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
    workspace: Workspace, row: state_pb2.BackfillRow, kept: Kept, rows_max: int
) -> tuple[int, bool]:
    """Continue the table of ``row``, and set in it where the next slice begins.

    Returns the number of rows read, and whether the table is complete.
    """
    found = next_rows(workspace, kept.source, row.from_key, rows_max)
    read = 0
    for key, value in found:
        if read >= rows_max:
            return read, False
        read += kept.fill(workspace, key, value)
        row.from_key = key + b"\x00"
        row.rows += 1
    return max(1, read), len(found) < rows_max


FEATURE: Final = Feature(name="backfill", decisions=(decides(FillTables, decide_fill),))
