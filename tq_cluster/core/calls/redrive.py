"""Redrive dead letters: make them PENDING again.

A redrive of a queue covers the dead letters that it held when the redrive began: the page token
carries that instant, so that a task that dies again meanwhile is not redriven without end.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core.calls.dead_letters import begun, check_choice, dead_letters, token_of
from tq_cluster.core.kernel import request_ids, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.refusals import no_such_queue
from tq_cluster.core.model import states
from tq_cluster.core.model.events import What
from tq_cluster.core.model.operations import Redrive, Refused, Replied, Steps
from tq_cluster.core.rows import rows


def decide_redrive(space: Space, operation: Redrive) -> Steps:
    """Redrive the tasks named, or the oldest dead letters of the queue named."""
    request = operation.request
    fault = check_choice(request, space.limits.redrive_tasks_max)
    if fault is not None:
        return fault
    began_ms = begun(space, request)
    if isinstance(began_ms, Refused):
        return began_ms
    method = state_pb2.RequestRow.METHOD_REDRIVE
    recalled = request_ids.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return _reply(request, recalled)
    row = state_pb2.RequestRow()
    if request.task_ids:
        yield from _redrive_named(space, request, row)
    else:
        queue = space.find_queue(request.queue)
        if queue is None:
            return no_such_queue(request.queue)
        limit = request.max_tasks or space.limits.redrive_tasks_max
        for number, task in dead_letters(
            space, queue.queue_id, began_ms, limit, goes_on=bool(request.page_token)
        ):
            if row.changed == limit:
                row.next_page_token = token_of(request, began_ms)
                break
            _redrive(space, number, task)
            row.changed += 1
            yield
    if row.changed:
        request_ids.remember(space, recalled, row)
    return _reply(request, row)


def _redrive_named(
    space: Space, request: queue_service_pb2.RedriveRequest, memory: state_pb2.RequestRow
) -> Generator[None]:
    for item, task_id in enumerate(request.task_ids):
        yield
        found = rows.find_task(space.workspace, space.prefix, task_id)
        if found is None or found[1].state != states.FAILED:
            memory.skipped.append(item)
        else:
            _redrive(space, *found)
            memory.changed += 1


def _redrive(space: Space, number: int, row: state_pb2.TaskRow) -> None:
    """Make a dead letter PENDING with no attempts made, at the back of its priority."""
    queue = space.queue(row.queue_id)
    transitions.forget_end(space, queue, number, row)
    row.due_at_ms = space.now_ms
    if row.expire_at_ms <= space.now_ms:
        row.expire_at_ms = 0  # an operator wants it started, even this late
    row.attempts_made = 0
    row.redrives += 1
    row.failure_reason = task_pb2.FAILURE_REASON_UNSPECIFIED
    row.finished_at_ms = 0
    row.retire_at_ms = 0
    transitions.make_pending(space, queue, number, row)
    space.note(What.REDRIVEN, queue, number, row)
    space.put_task(number, row)


def _reply(request: queue_service_pb2.RedriveRequest, memory: state_pb2.RequestRow) -> Replied:
    skipped = [request.task_ids[item] for item in memory.skipped]
    return Replied(
        reply=queue_service_pb2.RedriveResponse(
            redriven=memory.changed,
            skipped_task_ids=skipped,
            next_page_token=memory.next_page_token,
        )
    )


FEATURE: Final = Feature(name="redrive", decisions=(decides(Redrive, decide_redrive),))
