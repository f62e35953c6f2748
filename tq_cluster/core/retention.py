"""Removing what has been kept for long enough."""

from __future__ import annotations

from typing import Final

from tq_cluster.core import rows, tables, tasks
from tq_cluster.core.batch import Space
from tq_cluster.core.operations import Done, RemoveRetired, Steps

_ROWS_MIN: Final = 5
"""Id, task, spec, listing, and what waits for its removal."""


def decide_retired(space: Space, operation: RemoveRetired) -> Steps:
    """Remove tasks, each as a whole, until that is about ``rows_max`` rows."""
    left = operation.rows_max
    start = tables.at_key(space.prefix, 0, 0)
    stop = tables.at_key(space.prefix, space.now_ms + 1, 0)
    # A task is at least so many rows: no more than these can be reached.
    limit = len(operation.passed_over) + left // _ROWS_MIN + 1
    removed = 0
    for key, task_id in list(space.workspace.scan(tables.RETIRED, start, stop, limit=limit)):
        number = tables.split_number(key)
        if number in operation.passed_over:
            continue
        if left <= 0:
            return Done(more=True, items=removed)
        left -= remove_task(space, number, task_id)
        removed += 1
        yield
    return Done(more=left <= 0, items=removed)


def remove_task(space: Space, number: int, task_id: bytes) -> int:
    """Remove everything about a terminal task; return how many rows that were."""
    workspace, prefix = space.workspace, space.prefix
    row = rows.read_task(workspace, prefix, number)
    queue = space.queue(row.queue_id)
    tasks.forget_end(space, queue, number, row)
    tasks.unlist(space, queue, number, row.state)
    key = tables.number_key(prefix, number)
    count = _ROWS_MIN
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
