"""Redriving: dead letters become pending again.

A redrive of a queue is of the dead letters that were there when it began: the page token carries
that instant, so that one which dies again meanwhile is not redriven without end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core import pages, requests, rows, states, tables, tasks
from tq_cluster.core.batch import Space
from tq_cluster.core.events import What, note
from tq_cluster.core.operations import Redrive, Refused, Replied, Steps
from tq_cluster.core.queues import no_such_queue
from tq_cluster.core.validation import check_count, check_queue_name, invalid

_INSTANT_BYTES: Final = 8

Choice = queue_service_pb2.RedriveRequest | queue_service_pb2.DeleteDeadLettersRequest


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
    recalled = requests.recall(space, operation.caller, method, request)
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
            if row.redriven == limit:
                row.next_page_token = token_of(request, began_ms)
                break
            _redrive(space, number, task)
            row.redriven += 1
            yield
    if row.redriven:
        requests.remember(space, recalled, row)
    return _reply(request, row)


def check_choice(request: Choice, tasks_max: int) -> Refused | None:
    """Check how a call says which dead letters it means: by their ids or by their queue."""
    if request.task_ids:
        for name in ("queue", "page_token"):
            if getattr(request, name):
                return invalid(name, "is given beside task_ids; it takes one or the other")
        return check_count("task_ids", len(request.task_ids), tasks_max)
    if not request.queue:
        return invalid("task_ids", "is empty, and so is queue; it takes one or the other")
    if request.max_tasks > tasks_max:
        return invalid("max_tasks", f"is {request.max_tasks}; it takes 0 to {tasks_max}")
    return check_queue_name("queue", request.queue)


def begun(space: Space, request: Choice) -> int | Refused:
    """When the first call was made of those that this one goes on with, in log time."""
    position = pages.position_of(_of_queue(request), request.page_token, _INSTANT_BYTES)
    if isinstance(position, Refused):
        return position
    # No token of ours is of the future; one that was made up may be.
    return min(int.from_bytes(position, "big"), space.now_ms) if position else space.now_ms


def token_of(request: Choice, began_ms: int) -> str:
    """Return the token of the next call."""
    return pages.token_of(_of_queue(request), began_ms.to_bytes(_INSTANT_BYTES, "big"))


def _of_queue(request: Choice) -> Choice:
    """What a page token belongs to."""
    return type(request)(queue=request.queue)


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
            memory.redriven += 1


def dead_letters(
    space: Space, queue_id: int, began_ms: int, limit: int, *, goes_on: bool
) -> Iterator[tuple[int, state_pb2.TaskRow]]:
    """Yield a queue's dead letters of up to ``began_ms``, the first to fail first.

    One more than ``limit``, if there are so many. ``goes_on``: this is not the first call.
    """
    start = tables.dead_letter_key(space.prefix, queue_id, 0, 0)
    stop = tables.dead_letter_key(space.prefix, queue_id, began_ms + 1, 0)
    left = limit + 1
    while left > 0:
        found = list(space.workspace.scan(tables.DEAD_LETTERS, start, stop, limit=left))
        if not found:
            return
        start = found[-1][0] + b"\0"
        for number in [tables.split_number(key) for key, _ in found]:
            row = rows.read_task(space.workspace, space.prefix, number)
            # Redriven in the very millisecond in which this began, and dead again: not of those.
            again = row.redrives and row.due_at_ms == row.finished_at_ms == began_ms
            if not (goes_on and again):
                left -= 1
                yield number, row


def _redrive(space: Space, number: int, row: state_pb2.TaskRow) -> None:
    """Give a dead letter a fresh count of attempts, at the back of its priority."""
    queue = space.queue(row.queue_id)
    tasks.forget_end(space, queue, number, row)
    row.due_at_ms = space.now_ms
    if row.expire_at_ms <= space.now_ms:
        row.expire_at_ms = 0  # an operator wants it started, late as it is
    row.attempts_made = 0
    row.redrives += 1
    row.failure_reason = task_pb2.FAILURE_REASON_UNSPECIFIED
    row.finished_at_ms = 0
    row.retire_at_ms = 0
    tasks.make_pending(space, queue, number, row)
    note(space, What.REDRIVEN, queue, number, row)
    space.put_task(number, row)


def _reply(request: queue_service_pb2.RedriveRequest, memory: state_pb2.RequestRow) -> Replied:
    skipped = [request.task_ids[item] for item in memory.skipped]
    return Replied(
        reply=queue_service_pb2.RedriveResponse(
            redriven=memory.redriven,
            skipped_task_ids=skipped,
            next_page_token=memory.next_page_token,
        )
    )
