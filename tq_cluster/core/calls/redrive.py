"""Redrive dead letters: make them PENDING again.

A redrive of a queue covers the dead letters that it held when the redrive began: the page token
carries that instant, so that a task that dies again meanwhile is not redriven without end. A filter
says which of them are meant. Tasks that failed only because another one did, and those whose
failure let others start, are passed over.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core.calls.dead_letters import (
    Place,
    check_choice,
    dead_letters,
    keeps,
    left_alone,
    looked_at_max,
    place_of,
    token_of,
)
from tq_cluster.core.kernel import request_ids, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies import ends
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.refusals import no_such_queue
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Redrive, Refused, Replied, Steps
from tq_cluster.core.reads.dead_letter_filter import DeadLetterFilter, filter_of
from tq_cluster.core.rows import rows


def decide_redrive(space: Space, operation: Redrive) -> Steps:
    """Redrive the tasks named, or the oldest dead letters of the queue named."""
    request = operation.request
    fault = check_choice(request, space.limits.redrive_tasks_max)
    if fault is not None:
        return fault
    place = place_of(space, request)
    if isinstance(place, Refused):
        return place
    chosen = filter_of(request)
    if isinstance(chosen, Refused):
        return chosen
    method = state_pb2.RequestRow.METHOD_REDRIVE
    recalled = request_ids.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return (yield from _reply(space, request, recalled))
    row = state_pb2.RequestRow()
    if request.task_ids:
        yield from _redrive_named(space, request, row)
    else:
        queue = space.find_queue(request.queue)
        if queue is None:
            return no_such_queue(request.queue)
        yield from _redrive_oldest(space, queue.queue_id, place, chosen, request, row)
    if row.changed and not request.dry_run:
        request_ids.remember(space, recalled, row)
    return (yield from _reply(space, request, row))


def _redrive_named(
    space: Space, request: queue_service_pb2.RedriveRequest, memory: state_pb2.RequestRow
) -> Generator[None]:
    items = 0
    for item, task_id in enumerate(request.task_ids):
        yield
        if items >= ITEMS_MAX:
            return
        memory.reached = item + 1
        found = rows.find_task(space.workspace, space.prefix, task_id)
        if found is None or (yield from keeps(space, request, *found)) is not None:
            memory.skipped.append(item)
        else:
            items += yield from _redrive(space, *found)
            memory.changed += 1


def _redrive_oldest(
    space: Space,
    queue_id: int,
    place: Place,
    chosen: DeadLetterFilter,
    request: queue_service_pb2.RedriveRequest,
    memory: state_pb2.RequestRow,
) -> Generator[None]:
    most = request.max_tasks or space.limits.redrive_tasks_max
    looked_at_most = looked_at_max(request, space.limits.redrive_tasks_max)
    found = dead_letters(space, queue_id, place, chosen, looked_at_most)
    for looked_at, (number, task) in enumerate(found):
        yield
        if looked_at == looked_at_most or memory.changed == most:
            memory.next_page_token = token_of(request, place)
            return
        taken = chosen.takes(space.workspace, space.prefix, number, task)
        taken = taken and (yield from keeps(space, request, number, task)) is None
        if taken and not request.dry_run:
            yield from _redrive(space, number, task)
        else:
            place = place._replace(finished_at_ms=task.finished_at_ms, number=number)
        memory.changed += taken


def _redrive(space: Space, number: int, row: state_pb2.TaskRow) -> Generator[None, None, int]:
    """Make a dead letter PENDING with no attempts made, at the back of its priority.

    One that failed with another task, which no longer stands in its way, waits again. Returns how
    many items that cost.
    """
    if row.failure_reason == task_pb2.FAILURE_REASON_DEPENDENCY:
        return (yield from ends.take_back(space, number, row))
    row.due_at_ms = space.now_ms
    transitions.reopen(space, space.queue(row.queue_id), number, row, states.PENDING)
    space.put_task(number, row)
    if row.has_dependents:
        ends.changed(space, number, row)
    return 1


ITEMS_MAX: Final = 2_000
"""How many items one call by ids costs at most: a task redriven is one, and for a task that waits
again, each dependency is two.
"""


def _reply(
    space: Space, request: queue_service_pb2.RedriveRequest, memory: state_pb2.RequestRow
) -> Generator[None, None, Replied]:
    skipped = yield from left_alone(space, request, memory.skipped)
    return Replied(
        reply=queue_service_pb2.RedriveResponse(
            redriven=memory.changed,
            skipped_task_ids=[request.task_ids[item] for item in memory.skipped],
            skipped=skipped,
            # Versions before this one came to all of them, and did not note it.
            remaining_task_ids=request.task_ids[memory.reached or len(request.task_ids) :],
            next_page_token=memory.next_page_token,
        )
    )


FEATURE: Final = Feature(name="redrive", decisions=(decides(Redrive, decide_redrive),))
