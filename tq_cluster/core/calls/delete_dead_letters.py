"""Delete dead letters before their retention ends."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2
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
from tq_cluster.core.kernel import request_ids
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies import holds
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.refusals import no_such_queue
from tq_cluster.core.kernel.removal import remove
from tq_cluster.core.model.operations import DeleteDeadLetters, Refused, Replied, Steps
from tq_cluster.core.reads.dead_letter_filter import DeadLetterFilter, filter_of
from tq_cluster.core.rows import rows

_Request = queue_service_pb2.DeleteDeadLettersRequest
LOOK_ROWS: Final = holds.DEPENDENTS_LOOKED_AT
"""How many rows a look at a task's dependents counts as."""


def decide_deletion(space: Space, operation: DeleteDeadLetters) -> Steps:
    """Delete the tasks named, or the oldest dead letters of the queue named."""
    request = operation.request
    fault = check_choice(request, space.limits.delete_tasks_max)
    if fault is not None:
        return fault
    place = place_of(space, request)
    if isinstance(place, Refused):
        return place
    chosen = filter_of(request)
    if isinstance(chosen, Refused):
        return chosen
    method = state_pb2.RequestRow.METHOD_DELETE_DEAD_LETTERS
    recalled = request_ids.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return (yield from _reply(space, request, recalled))
    row = state_pb2.RequestRow()
    if request.task_ids:
        yield from _delete_named(space, request, row)
    else:
        queue = space.find_queue(request.queue)
        if queue is None:
            return no_such_queue(request.queue)
        yield from _delete_oldest(space, queue.queue_id, place, chosen, request, row)
    if row.changed and not request.dry_run:
        request_ids.remember(space, recalled, row)
    return (yield from _reply(space, request, row))


def _delete_named(space: Space, request: _Request, memory: state_pb2.RequestRow) -> Generator[None]:
    left = space.limits.delete_rows_max
    for item, task_id in enumerate(request.task_ids):
        yield
        if left <= 0:
            return
        memory.reached = item + 1
        found = rows.find_task(space.workspace, space.prefix, task_id)
        if found is not None and found[1].has_dependents:
            left -= LOOK_ROWS
        if found is None or (yield from keeps(space, request, *found)) is not None:
            memory.skipped.append(item)
        else:
            left -= yield from remove(space, *found, task_id.encode())
            memory.changed += 1


def _delete_oldest(
    space: Space,
    queue_id: int,
    place: Place,
    chosen: DeadLetterFilter,
    request: _Request,
    memory: state_pb2.RequestRow,
) -> Generator[None]:
    left = space.limits.delete_rows_max
    most = request.max_tasks or space.limits.delete_tasks_max
    looked_at_most = looked_at_max(request, space.limits.delete_tasks_max)
    found = dead_letters(space, queue_id, place, chosen, looked_at_most)
    for looked_at, (number, row) in enumerate(found):
        yield
        if left <= 0 or looked_at == looked_at_most or memory.changed == most:
            memory.next_page_token = token_of(request, place)
            return
        taken = chosen.takes(space.workspace, space.prefix, number, row)
        if taken and row.has_dependents:
            left -= LOOK_ROWS
        taken = taken and (yield from keeps(space, request, number, row)) is None
        memory.changed += taken
        if request.dry_run or not taken:
            place = place._replace(finished_at_ms=row.finished_at_ms, number=number)
            continue
        task_id = rows.read_spec(space.workspace, space.prefix, number).task_id
        left -= yield from remove(space, number, row, task_id.encode())


def _reply(
    space: Space, request: _Request, memory: state_pb2.RequestRow
) -> Generator[None, None, Replied]:
    skipped = yield from left_alone(space, request, memory.skipped)
    return Replied(
        reply=queue_service_pb2.DeleteDeadLettersResponse(
            deleted=memory.changed,
            skipped_task_ids=[request.task_ids[item] for item in memory.skipped],
            skipped=skipped,
            remaining_task_ids=request.task_ids[memory.reached :],
            next_page_token=memory.next_page_token,
        )
    )


FEATURE: Final = Feature(
    name="delete dead letters",
    decisions=(decides(DeleteDeadLetters, decide_deletion),),
)
