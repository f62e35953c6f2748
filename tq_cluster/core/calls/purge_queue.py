"""Purge a queue: cancel its waiting tasks, one slice per call.

A purge covers the tasks that were in the queue when it began. Task numbers rise in the order of
submission, and the page token carries the highest one: so a purge ends even if the queue is filled
faster than it is purged.
"""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2
from tq_cluster.core.kernel import request_ids, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.refusals import no_such_queue
from tq_cluster.core.kernel.validation import check_queue_name, invalid
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import PurgeQueue, Refused, Replied, Steps
from tq_cluster.core.reads import pages
from tq_cluster.core.rows import rows, tables

_WAITING: Final = sorted(states.WAITING)
_NUMBER_BYTES: Final = 8


def decide_purge(space: Space, operation: PurgeQueue) -> Steps:
    """Cancel waiting tasks from before the purge began, in each state the oldest first."""
    request = operation.request
    fault = _check(request, space.limits.purge_tasks_max)
    if fault is not None:
        return fault
    newest = _newest(space, request)
    if isinstance(newest, Refused):
        return newest
    method = state_pb2.RequestRow.METHOD_PURGE_QUEUE
    recalled = request_ids.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return _reply(recalled)
    queue = space.find_queue(request.queue)
    if queue is None:
        return no_such_queue(request.queue)
    limit = request.max_tasks or space.limits.purge_tasks_default
    # One more than are cancelled, to recognise the last slice.
    found = _waiting(space, queue.queue_id, newest, limit + 1)
    for number in found[:limit]:
        row = rows.read_task(space.workspace, space.prefix, number)
        task_id = rows.read_spec(space.workspace, space.prefix, number).task_id
        transitions.finish(space, queue, number, row, task_id, states.CANCELLED)
        space.put_task(number, row)
        yield
    memory = state_pb2.RequestRow(changed=len(found[:limit]))
    if len(found) > limit:
        position = newest.to_bytes(_NUMBER_BYTES, "big")
        memory.next_page_token = pages.token_of(_purged(request), position)
    if memory.changed:
        request_ids.remember(space, recalled, memory)
    return _reply(memory)


def _check(request: queue_service_pb2.PurgeQueueRequest, tasks_max: int) -> Refused | None:
    if request.max_tasks > tasks_max:
        return invalid("max_tasks", f"is {request.max_tasks}; it takes 0 to {tasks_max}")
    return check_queue_name("queue", request.queue)


def _purged(request: queue_service_pb2.PurgeQueueRequest) -> queue_service_pb2.PurgeQueueRequest:
    """Return the request that a page token belongs to."""
    return queue_service_pb2.PurgeQueueRequest(queue=request.queue)


def _newest(space: Space, request: queue_service_pb2.PurgeQueueRequest) -> int | Refused:
    """Return the number of the last task that belongs to this purge."""
    position = pages.position_of(_purged(request), request.page_token, _NUMBER_BYTES)
    if isinstance(position, Refused):
        return position
    if not position:
        return space.counters.task_number
    # No genuine token names a task that does not exist yet; a forged one may.
    return min(int.from_bytes(position, "big"), space.counters.task_number)


def _waiting(space: Space, queue_id: int, newest: int, limit: int) -> list[int]:
    found: list[int] = []
    for state in _WAITING:
        start = tables.by_state_key(space.prefix, state, queue_id, 0)
        stop = tables.by_state_key(space.prefix, state, queue_id, newest + 1)
        left = limit - len(found)
        if left > 0:
            slice_ = space.workspace.scan(tables.BY_STATE, start, stop, limit=left)
            found.extend(tables.split_number(key) for key, _ in slice_)
    return found


def _reply(memory: state_pb2.RequestRow) -> Replied:
    return Replied(
        reply=queue_service_pb2.PurgeQueueResponse(
            cancelled=memory.changed, next_page_token=memory.next_page_token
        )
    )


FEATURE: Final = Feature(name="purge queue", decisions=(decides(PurgeQueue, decide_purge),))
