"""The ready tasks by type: a claim of some types reads no tasks of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel import kept_tables, ready_order
from tq_cluster.core.kernel.audit import Audited, Rows
from tq_cluster.core.kernel.batch import Kept, Moments, Space
from tq_cluster.core.kernel.feature import Feature
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.rows import tables

BY_TYPE_VERSION: Final = 3
"""The first version that keeps READY_BY_TYPE, once a call needs it."""


def _know_type(space: Space, _queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    if not row.type_digest:
        ready_order.know_type(space.workspace, space.prefix, number, row)


def _audit(state: Audited) -> Iterator[str]:
    """Check the types in the rows of tasks, and READY_BY_TYPE: not begun, half filled or full."""
    kept = tables.READY_BY_TYPE in state.counters.kept_tables
    filled = tables.READY_BY_TYPE in state.counters.filled_tables
    reached = kept_tables.progress(state.view).from_key
    found = state.rows(tables.READY_BY_TYPE)
    expected: Rows = {}
    for number, row, spec in state.tasks:
        if row.type_digest not in (0, ready_order.type_digest(spec.type)):
            yield f"task {number} is of type {spec.type}, its row says {row.type_digest}"
        if row.state != states.PENDING:
            continue
        if not row.type_digest:
            if filled:
                yield f"task {number} is ready, and its row does not say of which type"
            continue
        key = tables.ready_key(
            state.prefix, row.queue_id, ready_order.LANE, row.priority, row.due_at_ms, number
        )
        by_type = tables.by_type_key(key, row.type_digest)
        # The backfill has yet to write the rows from the key on that it has reached.
        if filled or (kept and (key < reached or by_type in found)):
            expected[by_type] = b""
    yield from state.compare(tables.READY_BY_TYPE, expected)


FEATURE: Final = Feature(
    name="claims by type",
    since=BY_TYPE_VERSION,
    steps=Moments(ready=(_know_type,)),
    kept_tables={
        # It costs one more row to write and delete per task: a tenth of a submit. A claim by type
        # needs it once it has to pass over tasks of other types.
        tables.READY_BY_TYPE: Kept(
            version=BY_TYPE_VERSION,
            on_demand=True,
            source=tables.READY,
            fill=ready_order.fill_by_type,
        )
    },
    audits=(_audit,),
)
