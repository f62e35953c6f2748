"""Cancelling."""

from __future__ import annotations

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_service_pb2
from tq_cluster.core import requests, rows, states, tasks
from tq_cluster.core.batch import Space
from tq_cluster.core.operations import Cancel, Outcome, Refused, Replied
from tq_cluster.core.spans import put_ms


def decide_cancel(space: Space, operation: Cancel) -> Outcome:
    """Cancel a waiting task, mark a running one, leave a terminal one as it is."""
    request = operation.request
    method = state_pb2.RequestRow.METHOD_CANCEL
    recalled = requests.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    found = rows.find_task(space.workspace, space.prefix, request.task_id)
    if found is None:
        return no_such_task(request.task_id)
    number, row = found
    if isinstance(recalled, requests.Fresh):
        if row.state in states.WAITING:
            queue = space.queue(row.queue_id)
            tasks.finish(space, queue, number, row, request.task_id, states.CANCELLED)
            space.put_task(number, row)
            requests.remember(space, recalled, state_pb2.RequestRow())
        elif row.state == states.RUNNING and not row.cancel_requested:
            row.cancel_requested = True
            space.put_task(number, row)
            requests.remember(space, recalled, state_pb2.RequestRow())
    reply = task_service_pb2.CancelTaskResponse(state=row.state)
    if row.state == states.CANCELLED:
        put_ms(reply.cancelled_at, row.finished_at_ms)
    return Replied(reply=reply)


def no_such_task(task_id: str) -> Refused:
    """Return the refusal of a call that names a task which is not there."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_NOT_FOUND,
        message=f"there is no task {task_id[:200]!r}: never submitted, or past its retention",
        field="task_id",
        metadata={"field": "task_id"},
    )
