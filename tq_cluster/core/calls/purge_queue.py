"""Purge a queue: cancel its waiting tasks, all with one call or one slice per call; or stop that.

A purge covers the tasks that were in the queue when it began. Task numbers rise in the order of
submission, and the page token, or the queue's row, carries the highest one: so a purge ends even if
the queue is filled faster than it is purged.

Of a purge at once `kernel.purged` has the rule, and this module the continuation that cancels what
is covered, state by state: none gets past it, since a covered task moves to no other waiting state.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2
from tq_cluster.core.calls.configure_queue import wake_for_all
from tq_cluster.core.kernel import continuations, purged, request_ids, transitions
from tq_cluster.core.kernel.audit import Audited
from tq_cluster.core.kernel.batch import Progress, Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.kernel.refusals import no_such_queue
from tq_cluster.core.kernel.validation import check_queue_name, invalid
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import PurgeQueue, Refused, Replied, Steps
from tq_cluster.core.reads import pages
from tq_cluster.core.rows import rows, tables

PURGE_VERSION: Final = 5
"""The cluster version from which on a purge may hold at once."""

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
        return _reply(request, recalled)
    queue = space.find_queue(request.queue)
    if queue is None:
        return no_such_queue(request.queue)
    if request.at_once or request.stop:
        change = _purge_at_once if request.at_once else _stop
        memory = state_pb2.RequestRow(changed=change(space, queue))
        if memory.changed:
            request_ids.remember(space, recalled, memory)
        return _reply(request, memory)
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
    return _reply(request, memory)


def _check(request: queue_service_pb2.PurgeQueueRequest, tasks_max: int) -> Refused | None:
    if request.max_tasks > tasks_max:
        return invalid("max_tasks", f"is {request.max_tasks}; it takes 0 to {tasks_max}")
    if request.at_once and request.stop:
        return invalid("stop", "is given beside at_once; it takes one or the other")
    for name in ("max_tasks", "page_token"):
        if (request.at_once or request.stop) and getattr(request, name):
            return invalid(name, "must be left out: at_once and stop are about the whole queue")
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


def _reply(request: queue_service_pb2.PurgeQueueRequest, memory: state_pb2.RequestRow) -> Replied:
    reply = queue_service_pb2.PurgeQueueResponse(next_page_token=memory.next_page_token)
    if request.stop:
        reply.spared = memory.changed
    else:
        reply.cancelled = memory.changed
    return Replied(reply=reply)


def _purge_at_once(space: Space, queue: Queue) -> int:
    """Begin to purge all that waits in a queue; return how many tasks no purge covered before."""
    newly = purged.begin(queue, space.counters.task_number, space.now_ms)
    if queue.purged_to:
        space.batch.changed = True
        kind = state_pb2.ContinuationRow.KIND_PURGE
        continuations.begin(space, kind, queue.queue_id, queue.purges)
    return newly


def _stop(space: Space, queue: Queue) -> int:
    """Cover no task any more; return how many were covered. Claims wake for them."""
    spared = queue.purge_left
    if spared:
        purged.end(queue)
        queue.changed = space.batch.changed = True
        wake_for_all(space, queue)
    return spared


def _purge_on(
    space: Space, job: state_pb2.ContinuationRow, items_max: int
) -> Generator[None, None, Progress]:
    """Cancel the next tasks that the purge covers."""
    queue = space.find_queue_by_id(job.owner)
    if queue is None or not queue.purged_to or queue.purges != job.generation:
        return Progress(0, complete=True)  # no longer wanted, or a later purge does all of it
    items = 0
    for place in range(job.cursor[0] if job.cursor else 0, len(_WAITING)):
        found = _listed(space, queue, _WAITING[place], job, place, items_max - items)
        for number in found:
            row = rows.read_task(space.workspace, space.prefix, number)
            if purged.covers(queue, number, row):
                transitions.purge(space, queue, number, row)
                space.put_task(number, row)
            job.cursor = bytes([place]) + number.to_bytes(_NUMBER_BYTES, "big")
            items += 1
            yield
        if not queue.purged_to:
            break
        if items >= items_max:
            return Progress(items, complete=False)
    return Progress(items, complete=True)


def _listed(
    space: Space,
    queue: Queue,
    state: states.State,
    job: state_pb2.ContinuationRow,
    place: int,
    limit: int,
) -> list[int]:
    """Return the next tasks in a state that were there when the purge began, by number."""
    after = 0
    if job.cursor and job.cursor[0] == place:
        after = int.from_bytes(job.cursor[1:], "big")
    start = tables.by_state_key(space.prefix, state, queue.queue_id, after + 1)
    stop = tables.by_state_key(space.prefix, state, queue.queue_id, queue.purged_to + 1)
    found = space.workspace.scan(tables.BY_STATE, start, stop, limit=limit)
    return [tables.split_number(key) for key, _ in found]


def _audit(state: Audited) -> Iterator[str]:
    """Check that each purge knows how many tasks it still covers, and that it goes on."""
    jobs = map(state_pb2.ContinuationRow.FromString, state.rows(tables.CONTINUATIONS).values())
    going_on = {
        (job.owner, job.generation)
        for job in jobs
        if job.kind == state_pb2.ContinuationRow.KIND_PURGE
    }
    covered: dict[int, int] = {}
    for number, row, _ in state.tasks:
        queue = state.queues[row.queue_id]
        is_covered = purged.covers(queue, number, row)
        if is_covered:
            covered[queue.queue_id] = covered.get(queue.queue_id, 0) + 1
        place = (row.due_at_ms, number)
        found = place > (queue.purged_at_ms, queue.purged_to)
        if queue.purged_to and row.state == states.PENDING and found == is_covered:
            yield f"task {number}, due at {place[0]}, is on the wrong side of its queue's purge"
    for queue in state.queues.values():
        left = covered.get(queue.queue_id, 0)
        if queue.purge_left != left:
            yield f"queue {queue.name} counts {queue.purge_left} tasks to purge, there are {left}"
        if bool(queue.purged_to) != bool(left):
            yield f"queue {queue.name} is purged to {queue.purged_to} with {left} tasks left"
        if queue.purged_to and (queue.queue_id, queue.purges) not in going_on:
            yield f"nothing goes on with the purge of queue {queue.name}"


FEATURE: Final = Feature(
    name="purge queue",
    since=PURGE_VERSION,
    decisions=(decides(PurgeQueue, decide_purge),),
    continuations={state_pb2.ContinuationRow.KIND_PURGE: _purge_on},
    audits=(_audit,),
)
