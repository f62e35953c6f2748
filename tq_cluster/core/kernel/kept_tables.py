"""Tables that are kept from some entry on, with a backfill for older rows."""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.batch import Kept, Space
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View, Workspace


def begin(space: Space, version: int) -> None:
    """Keep the tables of the cluster version now in force from here on, if not on demand."""
    for table, kept in space.batch.kept_tables.items():
        if kept.version <= version and not kept.on_demand:
            _keep(space, table, kept)


def need(space: Space, table: int) -> bool:
    """Keep a table that a call needs from here on; return whether it can be read already."""
    counters = space.counters
    kept = space.batch.kept_tables[table]
    if table not in counters.kept_tables and kept.version <= _cluster_version(space):
        _keep(space, table, kept)
    return table in counters.filled_tables


def _keep(space: Space, table: int, kept: Kept) -> None:
    counters = space.counters
    if table in counters.kept_tables:
        return
    counters.kept_tables.append(table)
    space.batch.keeps_types = tables.READY_BY_TYPE in counters.kept_tables
    if next_rows(space.workspace, kept.source, b"", 1):
        space.wakeups.to_fill = True
    else:
        counters.filled_tables.append(table)
    space.batch.changed = True


def _cluster_version(space: Space) -> int:
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    return state_pb2.ClusterRow.FromString(found or b"").cluster_version


def progress(view: View) -> state_pb2.BackfillRow:
    """Return the progress of the backfill; an empty row if none is under way."""
    return state_pb2.BackfillRow.FromString(view.get(tables.META, tables.BACKFILL_KEY) or b"")


def next_rows(
    workspace: Workspace, source: int, from_key: bytes, limit: int
) -> list[tuple[bytes, bytes]]:
    """Return up to ``limit`` rows of a table in all namespaces, from a key on; b"" is the first."""
    return list(workspace.scan(source, from_key or _FIRST_KEY, _NO_KEY, limit=limit))


_FIRST_KEY: Final = b"\x00"


_NO_KEY: Final = b"\xff"
"""Above every key: the group is their first byte."""
