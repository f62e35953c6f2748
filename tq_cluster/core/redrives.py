"""Redriving: dead letters become pending again."""

from __future__ import annotations

from collections.abc import Generator

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core import requests, rows, states, tables, tasks
from tq_cluster.core.batch import Space
from tq_cluster.core.events import What, note
from tq_cluster.core.operations import Redrive, Refused, Replied, Steps
from tq_cluster.core.queues import no_such_queue
from tq_cluster.core.validation import check_count, check_queue_name, invalid


def decide_redrive(space: Space, operation: Redrive) -> Steps:
    """Redrive the tasks named, or the oldest dead letters of the queue named."""
    request = operation.request
    fault = check_choice(request, space.limits.redrive_tasks_max)
    if fault is not None:
        return fault
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
        for number in oldest_dead_letters(space, queue.queue_id, limit):
            _redrive(space, number, rows.read_task(space.workspace, space.prefix, number))
            row.redriven += 1
            yield
    if row.redriven:
        requests.remember(space, recalled, row)
    return _reply(request, row)


def check_choice(
    request: queue_service_pb2.RedriveRequest | queue_service_pb2.DeleteDeadLettersRequest,
    tasks_max: int,
) -> Refused | None:
    """Check how a call says which dead letters it means: by their ids or by their queue."""
    if request.task_ids:
        if request.queue:
            return invalid("queue", "is given beside task_ids; it takes one or the other")
        return check_count("task_ids", len(request.task_ids), tasks_max)
    if not request.queue:
        return invalid("task_ids", "is empty, and so is queue; it takes one or the other")
    if request.max_tasks > tasks_max:
        return invalid("max_tasks", f"is {request.max_tasks}; it takes 0 to {tasks_max}")
    return check_queue_name("queue", request.queue)


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


def oldest_dead_letters(space: Space, queue_id: int, limit: int) -> list[int]:
    """Return the numbers of up to ``limit`` dead letters of a queue, the first to fail first."""
    start = tables.dead_letter_key(space.prefix, queue_id, 0, 0)
    stop = tables.queue_key(space.prefix, queue_id + 1)
    found = space.workspace.scan(tables.DEAD_LETTERS, start, stop, limit=limit)
    return [tables.split_number(key) for key, _ in found]


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
        reply=queue_service_pb2.RedriveResponse(redriven=memory.redriven, skipped_task_ids=skipped)
    )
