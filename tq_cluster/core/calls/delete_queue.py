"""Delete a queue that holds no task."""

from __future__ import annotations

from typing import Final

from tq.v1 import errors_pb2, queue_service_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.refusals import no_such_queue
from tq_cluster.core.kernel.validation import check_queue_name
from tq_cluster.core.model.operations import (
    DeleteQueue,
    Outcome,
    Refused,
    Replied,
)


def decide_delete_queue(space: Space, operation: DeleteQueue) -> Outcome:
    """Remove a queue that holds no task."""
    name = operation.request.queue
    fault = check_queue_name("queue", name)
    if fault is not None:
        return fault
    queue = space.find_queue(name)
    if queue is None:
        return no_such_queue(name)
    held = sum(queue.counts)
    if held:
        return Refused(
            reason=errors_pb2.ERROR_REASON_QUEUE_IN_USE,
            message=f"queue {name!r} holds {held:,} tasks, those that have ended and are kept for"
            " a while included; only an empty one can be deleted",
            field="queue",
            metadata={"field": "queue", "actual": str(held)},
        )
    space.drop_queue(queue)
    return Replied(reply=queue_service_pb2.DeleteQueueResponse())


FEATURE: Final = Feature(
    name="delete queue",
    decisions=(decides(DeleteQueue, decide_delete_queue),),
)
