"""Cancel a task."""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_service_pb2
from tq_cluster.core.kernel import request_ids, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.refusals import no_such_task
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Cancel, Outcome, Refused, Replied
from tq_cluster.core.model.proto_time import put_ms
from tq_cluster.core.rows import rows


def decide_cancel(space: Space, operation: Cancel) -> Outcome:
    """Cancel a waiting task, mark a running one, leave a terminal one as it is."""
    request = operation.request
    method = state_pb2.RequestRow.METHOD_CANCEL
    recalled = request_ids.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    found = rows.find_task(space.workspace, space.prefix, request.task_id)
    if found is None:
        return no_such_task(request.task_id)
    number, row = found
    if isinstance(recalled, request_ids.Fresh):
        if row.state in states.WAITING:
            queue = space.queue(row.queue_id)
            transitions.finish(space, queue, number, row, request.task_id, states.CANCELLED)
            space.put_task(number, row)
            request_ids.remember(space, recalled, state_pb2.RequestRow())
        elif row.state == states.RUNNING and not row.cancel_requested:
            row.cancel_requested = True
            space.put_task(number, row)
            request_ids.remember(space, recalled, state_pb2.RequestRow())
    reply = task_service_pb2.CancelTaskResponse(state=row.state)
    if row.state == states.CANCELLED:
        put_ms(reply.cancelled_at, row.finished_at_ms)
    return Replied(reply=reply)


FEATURE: Final = Feature(name="cancel", decisions=(decides(Cancel, decide_cancel),))
