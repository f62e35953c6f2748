"""Compare the nodes' states: the next range is stored, so that any leader can continue."""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.model.operations import Done, EndScrub, HashRange, HashState
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View

SCRUB_VERSION: Final = 2
"""The first version that compares states: an older node would take a hashing entry for one that
does nothing.
"""


def scrub_row(view: View) -> state_pb2.ScrubRow:
    """Return the progress of the scrub."""
    return state_pb2.ScrubRow.FromString(view.get(tables.META, tables.SCRUB_KEY) or b"")


def decide_hash(space: Space, operation: HashState) -> Done:
    """Store where the next range begins, and have it hashed."""
    row = scrub_row(space.workspace)
    if operation.begins:
        row.began_at_ms = space.now_ms
        row.urgent = operation.urgent
    row.table, row.from_key, row.rows = operation.table, operation.from_key, operation.rows
    _put(space, row)
    space.batch.hash_range = HashRange(operation.table, operation.from_key)
    return Done(more=False)


def decide_scrub_end(space: Space, operation: EndScrub) -> Done:
    """Record that all of the state was hashed once."""
    began_at_ms = scrub_row(space.workspace).began_at_ms
    row = state_pb2.ScrubRow(
        last_began_at_ms=began_at_ms,
        last_finished_at_ms=space.now_ms,
        last_rows=operation.rows,
    )
    _put(space, row)
    return Done(more=False)


def _put(space: Space, row: state_pb2.ScrubRow) -> None:
    value = row.SerializeToString(deterministic=True)
    space.workspace.put(tables.META, tables.SCRUB_KEY, value)
    space.batch.changed = True


FEATURE: Final = Feature(
    name="scrubbing",
    since=SCRUB_VERSION,
    decisions=(
        decides(HashState, decide_hash),
        decides(EndScrub, decide_scrub_end),
    ),
)
