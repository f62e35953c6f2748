"""Tables that are kept from some entry on, with a backfill for older rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.batch import BY_TYPE_VERSION, Space
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """When a table begins to be kept, and how it is filled."""

    version: int
    """The cluster version that introduces it."""
    on_demand: bool
    """Whether it is kept only once a call has needed it."""
    source: int
    """The table that the backfill scans."""
    fill: Callable[[Workspace, bytes, bytes], int]
    """Writes the rows for one row of the source, and returns how many rows it read."""


KEPT: Final[Mapping[int, Kept]] = {
    # It costs one more row to write and delete per task: a tenth of a submit. A claim by type
    # needs it once it has to pass over tasks of other types.
    tables.READY_BY_TYPE: Kept(
        version=BY_TYPE_VERSION,
        on_demand=True,
        source=tables.READY,
        fill=ready_order.fill_by_type,
    )
}
"""By table number, in the order of the backfill."""


def begin(space: Space, version: int) -> None:
    """Keep the tables of the cluster version now in force from here on, if not on demand."""
    for table, kept in KEPT.items():
        if kept.version <= version and not kept.on_demand:
            _keep(space, table, kept)


def need(space: Space, table: int) -> bool:
    """Keep a table that a call needs from here on; return whether it can be read already."""
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
    if next_rows(space.workspace, kept.source, b"", 1):
        space.wakeups.to_fill = True
    else:
        counters.filled_tables.append(table)
    space.batch.changed = True


def _cluster_version(space: Space) -> int:
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    return state_pb2.ClusterRow.FromString(found or b"").cluster_version


def next_rows(
    workspace: Workspace, source: int, from_key: bytes, limit: int
) -> list[tuple[bytes, bytes]]:
    """Return up to ``limit`` rows of a table in all namespaces, from a key on; b"" is the first."""
    return list(workspace.scan(source, from_key or _FIRST_KEY, _NO_KEY, limit=limit))


_FIRST_KEY: Final = b"\x00"


_NO_KEY: Final = b"\xff"
"""Above every key: the group is their first byte."""
