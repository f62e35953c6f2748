"""Filling tables for what was there before them, while everything goes on.

A table that a cluster version brings is needed of every task, also of those from before: millions,
perhaps. Four rules make that safe, for every table of every version:

- from the entry on that raises the version, each decision keeps the table, whether it is full or
  not: ``counters.kept_version`` says up to which version;
- what was there before is gone through by its key, in slices of bounded rows: one slice is one
  operation of the leader, and its entry holds both what it wrote and where the next one begins.
  Whoever leads next goes on from there, and so does whoever restores a backup of it;
- nothing reads the table before all of it is there: ``counters.filled_version`` says so. Until then
  what it is for is done as it was before, at a bounded cost;
- to fill a row twice, or one that has changed since, does no harm.

A table of a later version is one more step in STEPS, after all the others, and two comparisons with
those two counters; ``core/invariants.py`` says of it what holds of a table half filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, slots=True)
class Step:
    """How one table is filled."""

    version: int
    """The cluster version that brings the table."""
    source: int
    """The table that is gone through."""
    fill: Callable[[Workspace, bytes, bytes], int]
    """Writes what a row of the source leads to, and returns how many rows were read for it."""


STEPS: Final[Sequence[Step]] = (Step(BY_TYPE_VERSION, tables.READY, ordering.fill_by_type),)
"""In the order of their versions. The places in it are written down: only add to its end."""


def begin(space: Space, version: int) -> None:
    """Have the tables of ``version`` kept from here on, and filled if there is anything to fill."""
    counters = space.counters
    if version < STEPS[0].version or version <= counters.kept_version:
        return
    before, counters.kept_version = counters.kept_version, version
    space.batch.keeps_types = True
    fresh = [step.source for step in STEPS if before < step.version <= version]
    if counters.filled_version == before and all(
        _next_rows(space.workspace, source, b"", 1) == [] for source in fresh
    ):
        counters.filled_version = version
    space.batch.changed = True


def is_under_way(view: View) -> bool:
    """Whether there is anything left to fill."""
    found = view.get(tables.META, tables.COUNTERS_KEY)
    counters = state_pb2.CountersRow.FromString(found or b"")
    return counters.filled_version < counters.kept_version


def progress(view: View) -> state_pb2.BackfillRow:
    """Return how far the filling has come; as new if none is under way."""
    return state_pb2.BackfillRow.FromString(view.get(tables.META, tables.BACKFILL_KEY) or b"")


def decide_fill(space: Space, operation: FillTables) -> Done:
    """Fill what the next rows lead to, about ``rows_max`` of them, and note where they end.

    There may be more, and no hurry: the leader has the next slice decided when it sees fit.
    """
    counters = space.counters
    if counters.filled_version >= counters.kept_version:
        return Done(more=False)
    row = progress(space.workspace)
    left = operation.rows_max
    space.batch.changed = True
    while left > 0:
        row.step = _step_from(row.step, counters)
        if row.step == len(STEPS) or STEPS[row.step].version > counters.kept_version:
            counters.filled_version = counters.kept_version
            space.wakeups.filled = Filled(row.rows, complete=True)
            space.workspace.delete(tables.META, tables.BACKFILL_KEY)
            return Done(more=False)
        left -= _fill_slice(space.workspace, row, left)
    value = row.SerializeToString(deterministic=True)
    space.workspace.put(tables.META, tables.BACKFILL_KEY, value)
    space.wakeups.filled = Filled(row.rows, complete=False)
    return Done(more=False, items=operation.rows_max)


def _step_from(place: int, counters: state_pb2.CountersRow) -> int:
    """Pass over the steps of versions that are filled."""
    while place < len(STEPS) and STEPS[place].version <= counters.filled_version:
        place += 1
    return place


def _fill_slice(workspace: Workspace, row: state_pb2.BackfillRow, rows_max: int) -> int:
    """Go on with the step of ``row``, and note in it where the next slice begins."""
    step = STEPS[row.step]
    found = _next_rows(workspace, step.source, row.from_key, rows_max)
    read = 0
    for key, value in found:
        if read >= rows_max:
            return read
        read += step.fill(workspace, key, value)
        row.from_key = key + b"\x00"
        row.rows += 1
    if len(found) < rows_max:
        row.step += 1
        row.from_key = b""
    return max(1, read)


def _next_rows(
    workspace: Workspace, source: int, from_key: bytes, limit: int
) -> list[tuple[bytes, bytes]]:
    return list(workspace.scan(source, from_key or _FIRST_KEY, _NO_KEY, limit=limit))
