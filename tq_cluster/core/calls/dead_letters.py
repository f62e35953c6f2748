"""The lists of dead letters, and the selection that redrive and delete share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2
from tq_cluster.core.kernel.audit import Audited, Rows
from tq_cluster.core.kernel.batch import Moments, Space
from tq_cluster.core.kernel.feature import Feature
from tq_cluster.core.kernel.indexes import NOTHING
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.kernel.validation import check_count, check_queue_name, invalid
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.reads import pages
from tq_cluster.core.rows import rows, tables

Choice = queue_service_pb2.RedriveRequest | queue_service_pb2.DeleteDeadLettersRequest


_INSTANT_BYTES: Final = 8


def check_choice(request: Choice, tasks_max: int) -> Refused | None:
    """Check a call's selection of dead letters: by their ids or by their queue."""
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
    """Return when the first call of this series was made, in ms of log time."""
    position = pages.position_of(_of_queue(request), request.page_token, _INSTANT_BYTES)
    if isinstance(position, Refused):
        return position
    # No genuine token is of the future; a forged one may be.
    return min(int.from_bytes(position, "big"), space.now_ms) if position else space.now_ms


def token_of(request: Choice, began_ms: int) -> str:
    """Return the token of the next call."""
    return pages.token_of(_of_queue(request), began_ms.to_bytes(_INSTANT_BYTES, "big"))


def _of_queue(request: Choice) -> Choice:
    """Return the request that a page token belongs to."""
    return type(request)(queue=request.queue)


def dead_letters(
    space: Space, queue_id: int, began_ms: int, limit: int, *, goes_on: bool
) -> Iterator[tuple[int, state_pb2.TaskRow]]:
    """Yield a queue's dead letters that failed up to ``began_ms``, the oldest first.

    It yields up to ``limit`` + 1. ``goes_on`` means that this is not the first call.
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
            # Redriven and dead again in the millisecond in which the series began: left out.
            again = row.redrives and row.due_at_ms == row.finished_at_ms == began_ms
            if not (goes_on and again):
                left -= 1
                yield number, row


def _list(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    if row.state == states.FAILED:
        queue.tally.died(row.failure_reason)
        for key in _keys(space.prefix, number, row):
            space.workspace.put(tables.DEAD_LETTERS, key, NOTHING)


def _keys(prefix: bytes, number: int, row: state_pb2.TaskRow) -> list[bytes]:
    """Return the keys of a dead letter: in the list of all queues, and in that of its own."""
    return [
        tables.dead_letter_key(prefix, queue_id, row.finished_at_ms, number)
        for queue_id in (tables.ALL_QUEUES, row.queue_id)
    ]


def _audit(state: Audited) -> Iterator[str]:
    expected: Rows = {}
    for number, row, _ in state.tasks:
        if row.state == states.FAILED:
            expected.update(dict.fromkeys(_keys(state.prefix, number, row), NOTHING))
    yield from state.compare(tables.DEAD_LETTERS, expected)


FEATURE: Final = Feature(name="dead letters", steps=Moments(end=(_list,)), audits=(_audit,))
