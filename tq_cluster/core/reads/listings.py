"""Lists of tasks, dead letters and queues, a page at a time.

Each page reads a bounded number of rows, in steps, and may be short for that reason; its token says
where the next page begins.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2
from tq_cluster.core.kernel.queue import read_queue
from tq_cluster.core.kernel.validation import (
    check_at_most,
    check_labels,
    check_queue_name,
    check_type,
    invalid,
)
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import DEFAULT_LIMITS, Limits
from tq_cluster.core.model.operations import Refused, Replied
from tq_cluster.core.reads import describe, pages
from tq_cluster.core.reads.dead_letter_filter import DeadLetterFilter, filter_of
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

SCAN_MAX: Final = 2_000
"""The most tasks that one page reads."""
PAGE_BYTES_MAX: Final = 2 << 20
"""About the most bytes of a page of tasks, since it is serialized in one go."""
STATES_MAX: Final = len(states.ALL) - 1
"""The number of states that a task can be in; a longer list names one twice."""

_LAST_NUMBER: Final = (1 << 64) - 1
_NUMBER_BYTES: Final = 8
_DEAD_LETTER_BYTES: Final = 16
"""An instant and a number: what follows the queue in a key of DEAD_LETTERS."""


def list_tasks(
    scope: Scope[Reader],
    request: task_service_pb2.ListTasksRequest,
    limits: Limits = DEFAULT_LIMITS,
) -> Steps[Replied | Refused]:
    """Return tasks that pass the filters, the newest first.

    With a queue, it reads only tasks in the states requested; without one, every task.
    """
    # Before the filters are used: a position belongs to them.
    fault = _check_filters(request)
    if fault is not None:
        return fault
    view, prefix = scope.view, scope.prefix
    size = pages.size_of(request.page_size, limits)
    position = pages.position_of(request, request.page_token, _NUMBER_BYTES)
    for refused in (size, position):
        if isinstance(refused, Refused):
            return refused
    assert isinstance(size, int)
    assert isinstance(position, bytes)
    reply = task_service_pb2.ListTasksResponse()
    wanted = frozenset(request.states) or frozenset(states.ALL)
    below = int.from_bytes(position, "big") if position else _LAST_NUMBER
    room = min(PAGE_BYTES_MAX, limits.reply_bytes_max)
    looked_at = 0
    while True:
        for number in _newest_first(view, prefix, request.queue, sorted(wanted), below):
            below = number
            looked_at += 1
            row = rows.read_task(view, prefix, number)
            if row.state in wanted:
                spec = rows.read_spec(view, prefix, number)
                if _matches(spec, request):
                    spec.payload = b""
                    task = describe.brief_task(row, spec)
                    task.last_error = describe.last_error(view, prefix, number, row)
                    room -= task.ByteSize()
                    reply.tasks.append(task)
            page_is_full = len(reply.tasks) == size or looked_at == SCAN_MAX or room <= 0
            if page_is_full or view.is_spent:
                position = number.to_bytes(_NUMBER_BYTES, "big")
                reply.next_page_token = pages.token_of(request, position)
                return Replied(reply=reply)
            if view.step_is_over:
                break
        else:
            return Replied(reply=reply)
        yield


def list_dead_letters(
    scope: Scope[Reader],
    request: queue_service_pb2.ListDeadLettersRequest,
    limits: Limits = DEFAULT_LIMITS,
) -> Steps[Replied | Refused]:
    """Return FAILED tasks with their histories, the last to fail first."""
    fault = check_queue_name("queue", request.queue) if request.queue else None
    if fault is not None:
        return fault
    view, prefix = scope.view, scope.prefix
    size = pages.size_of(request.page_size, limits)
    position = pages.position_of(request, request.page_token, _DEAD_LETTER_BYTES)
    chosen = filter_of(request)
    for refused in (size, position, chosen):
        if isinstance(refused, Refused):
            return refused
    assert isinstance(size, int)
    assert isinstance(position, bytes)
    assert isinstance(chosen, DeadLetterFilter)
    reply = queue_service_pb2.ListDeadLettersResponse()
    queue_id: int | None = tables.ALL_QUEUES
    if request.queue:
        queue_id = rows.read_queue_id(view, prefix, request.queue)
    if queue_id is None:
        return Replied(reply=reply)
    start = tables.dead_letter_key(prefix, queue_id, chosen.from_ms, 0)
    stop = tables.queue_key(prefix, queue_id) + position
    if not position:
        stop = tables.dead_letter_key(prefix, queue_id, chosen.until_ms, 0)
    room = min(PAGE_BYTES_MAX, limits.reply_bytes_max)
    while True:
        before = stop
        for key, _ in view.scan(tables.DEAD_LETTERS, start, stop, limit=size, reverse=True):
            stop = key
            number = tables.split_number(key)
            row = rows.read_task(view, prefix, number)
            if chosen.takes(view, prefix, number, row):
                task = describe.whole_task(view, prefix, number, row)
                room -= task.ByteSize()
                reply.tasks.append(task)
            if len(reply.tasks) == size or room <= 0 or view.is_spent:
                reply.next_page_token = pages.token_of(request, key[-_DEAD_LETTER_BYTES:])
                return Replied(reply=reply)
            if view.step_is_over:
                break
        else:
            if stop == before:
                return Replied(reply=reply)
        yield


def list_queues(
    scope: Scope[Reader],
    request: queue_service_pb2.ListQueuesRequest,
    limits: Limits = DEFAULT_LIMITS,
) -> Steps[Replied | Refused]:
    """Return queues with their counts, by name."""
    view, prefix = scope.view, scope.prefix
    size = pages.size_of(request.page_size, limits)
    position = pages.position_of(request, request.page_token)
    if isinstance(size, Refused):
        return size
    if isinstance(position, Refused):
        return position
    reply = queue_service_pb2.ListQueuesResponse()
    start = prefix + position + b"\x00" if position else prefix
    stop = tables.end_of(prefix)
    while True:
        for key, value in view.scan(tables.QUEUE_IDS, start, stop, limit=size):
            queue = read_queue(view, prefix, int.from_bytes(value, "big"))
            reply.queues.append(describe.queue_stats(view, prefix, queue))
            if len(reply.queues) == size or view.is_spent:
                reply.next_page_token = pages.token_of(request, key[len(prefix) :])
                return Replied(reply=reply)
            if view.step_is_over:
                start = key + b"\x00"
                break
        else:
            return Replied(reply=reply)
        yield


def _newest_first(
    view: View, prefix: bytes, queue: str, wanted: list[states.State], below: int
) -> Iterator[int]:
    """Yield the numbers of tasks under ``below`` that may pass the filters, in falling order."""
    if not queue:
        yield from _falling(view, tables.TASKS, prefix, below)
        return
    queue_id = rows.read_queue_id(view, prefix, queue)
    if queue_id is None:
        return
    runs = [
        _falling(view, tables.BY_STATE, tables.state_prefix(prefix, state, queue_id), below)
        for state in wanted
    ]
    yield from heapq.merge(*runs, reverse=True)


def _falling(view: View, table: int, run_prefix: bytes, below: int) -> Iterator[int]:
    start, stop = run_prefix, run_prefix + below.to_bytes(_NUMBER_BYTES, "big")
    # One more than a page reads, to recognise the last page.
    for key, _ in view.scan(table, start, stop, limit=SCAN_MAX + 1, reverse=True):
        yield tables.split_number(key)


def _check_filters(request: task_service_pb2.ListTasksRequest) -> Refused | None:
    # Counted before the loop: a caller may send millions.
    fault = check_at_most("states", len(request.states), STATES_MAX)
    for state in request.states if fault is None else ():
        if state not in states.ALL or state == task_pb2.TASK_STATE_UNSPECIFIED:
            return invalid("states", f"has {state}, which is no state of a task")
    if fault is None and request.queue:
        fault = check_queue_name("queue", request.queue)
    if fault is None and request.type:
        fault = check_type("type", request.type)
    return fault or check_labels(request.labels)


def _matches(spec: task_pb2.TaskSpec, request: task_service_pb2.ListTasksRequest) -> bool:
    if request.type and spec.type != request.type:
        return False
    return all(spec.labels.get(key) == value for key, value in request.labels.items())
