"""Remove tasks past their retention."""

from __future__ import annotations

from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.transitions import ROWS_A_TASK_MIN, remove
from tq_cluster.core.model.operations import Done, RemoveRetired, Steps
from tq_cluster.core.rows import tables


def decide_retired(space: Space, operation: RemoveRetired) -> Steps:
    """Remove whole tasks past their retention, about ``rows_max`` rows in all."""
    left = operation.rows_max
    start = tables.at_key(space.prefix, 0, 0)
    stop = tables.at_key(space.prefix, space.now_ms + 1, 0)
    # A task has at least ROWS_A_TASK_MIN rows: no more tasks than these can be reached.
    limit = len(operation.passed_over) + left // ROWS_A_TASK_MIN + 1
    removed = 0
    for key, task_id in list(space.workspace.scan(tables.RETIRED, start, stop, limit=limit)):
        number = tables.split_number(key)
        if number in operation.passed_over:
            continue
        if left <= 0:
            return Done(more=True, items=removed)
        left -= remove(space, number, task_id)
        removed += 1
        yield
    return Done(more=operation.more or left <= 0, items=removed)
