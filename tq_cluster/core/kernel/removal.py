"""Remove everything about a terminal task."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies import attaching, holds
from tq_cluster.core.model import states
from tq_cluster.core.rows import rows, tables

ROWS_A_TASK_MIN: Final = 5
"""Id, task, spec, listing by state, and the row in RETIRED."""
ROWS_A_DEAD_LETTER: Final = 2
"""Its rows in DEAD_LETTERS: in its queue's list, and in that of all queues."""


def remove(
    space: Space, number: int, row: state_pb2.TaskRow, task_id: bytes
) -> Generator[None, None, int]:
    """Remove a terminal task that no other needs; return how many rows that were.

    `holds.keeps_from_removal` says whether another needs it.
    """
    workspace, prefix = space.workspace, space.prefix
    queue = space.queue(row.queue_id)
    transitions.forget_end(space, queue, number, row)
    transitions.unlist(space, queue, number, row.state)
    key = tables.number_key(prefix, number)
    count = ROWS_A_TASK_MIN + (ROWS_A_DEAD_LETTER if row.state == states.FAILED else 0)
    if row.has_dependents:
        holds.forget_dependents(space, number)
    if row.has_dependencies:
        count += yield from attaching.forget(space, number)
    workspace.delete(tables.TASK_IDS, prefix + task_id)
    workspace.delete(tables.TASKS, key)
    workspace.delete(tables.SPECS, key)
    rows.delete_chunks(workspace, tables.PAYLOADS, prefix, number, row.payload_chunks)
    count += row.payload_chunks
    if row.has_result:
        chunks = rows.read_result(workspace, prefix, number).chunks
        rows.delete_chunks(workspace, tables.RESULT_CHUNKS, prefix, number, chunks)
        workspace.delete(tables.RESULTS, key)
        count += chunks + 1
    first_kept = max(0, row.history_length - space.limits.attempts_kept)
    for place in range(first_kept, row.history_length):
        workspace.delete(tables.ATTEMPTS, tables.attempt_key(prefix, number, place))
    return count + row.history_length - first_kept
