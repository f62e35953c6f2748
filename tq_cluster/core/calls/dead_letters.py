"""The lists of dead letters, and the selection that redrive and delete share."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, queue_service_pb2, task_pb2
from tq_cluster.core.kernel.audit import Audited, Rows
from tq_cluster.core.kernel.batch import Moments, Space
from tq_cluster.core.kernel.dependencies import holds
from tq_cluster.core.kernel.feature import Feature
from tq_cluster.core.kernel.indexes import NOTHING
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.kernel.refusals import no_such_task
from tq_cluster.core.kernel.validation import check_count, check_queue_name, invalid, item_error
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.reads import pages
from tq_cluster.core.reads.dead_letter_filter import DeadLetterFilter
from tq_cluster.core.rows import rows, tables

Choice = queue_service_pb2.RedriveRequest | queue_service_pb2.DeleteDeadLettersRequest


_BEGAN: Final = Struct(">Q")
_PLACE: Final = Struct(">QQQ")


def check_choice(request: Choice, tasks_max: int) -> Refused | None:
    """Check a call's selection of dead letters: by their ids or by their queue."""
    if request.task_ids:
        for name in ("queue", "page_token", "dry_run"):
            if getattr(request, name):
                return invalid(name, "is given beside task_ids; it takes one or the other")
        if request.HasField("filter"):
            return invalid("filter", "is given beside task_ids; it takes one or the other")
        return check_count("task_ids", len(request.task_ids), tasks_max)
    if not request.queue:
        return invalid("task_ids", "is empty, and so is queue; it takes one or the other")
    if request.max_tasks > tasks_max:
        return invalid("max_tasks", f"is {request.max_tasks}; it takes 0 to {tasks_max}")
    return check_queue_name("queue", request.queue)


class Place(NamedTuple):
    """How far a series of calls on a queue's dead letters has come."""

    began_ms: int
    """When its first call was made, by log time."""
    goes_on: bool = False
    """Whether this is not the first call."""
    finished_at_ms: int = 0
    number: int = 0
    """The last dead letter that was looked at, if one was left as it is."""


def place_of(space: Space, request: Choice) -> Place | Refused:
    """Return where a call goes on."""
    position = pages.position_of(_of_queue(request), request.page_token)
    if isinstance(position, Refused):
        return position
    if not position:
        return Place(space.now_ms)
    if len(position) not in (_BEGAN.size, _PLACE.size):
        return pages.made_up("page_token")
    began_ms, *after = (_BEGAN if len(position) == _BEGAN.size else _PLACE).unpack(position)
    # No genuine token is of the future; a forged one may be.
    return Place(min(began_ms, space.now_ms), True, *after)


def token_of(request: Choice, place: Place) -> str:
    """Return the token of the next call."""
    began_ms, _, finished_at_ms, number = place
    # As versions before this one wrote it, if nothing was passed over.
    position = _PLACE.pack(began_ms, finished_at_ms, number) if number else _BEGAN.pack(began_ms)
    return pages.token_of(_of_queue(request), position)


def _of_queue(request: Choice) -> Choice:
    """Return the request that a page token belongs to."""
    chosen = type(request)(queue=request.queue)
    if request.HasField("filter"):
        chosen.filter.CopyFrom(request.filter)
    return chosen


def dead_letters(
    space: Space, queue_id: int, place: Place, chosen: DeadLetterFilter, limit: int
) -> Iterator[tuple[int, state_pb2.TaskRow]]:
    """Yield a queue's dead letters that failed up to the beginning of a series, the oldest first.

    It yields up to ``limit`` + 1, and none that failed outside the time that was chosen.
    """
    began_ms = place.began_ms
    start = tables.dead_letter_key(space.prefix, queue_id, place.finished_at_ms, place.number)
    if place.number:
        start += b"\0"
    start = max(start, tables.dead_letter_key(space.prefix, queue_id, chosen.from_ms, 0))
    end_ms = min(began_ms + 1, chosen.until_ms)
    stop = tables.dead_letter_key(space.prefix, queue_id, end_ms, 0)
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
            if not (place.goes_on and again):
                left -= 1
                yield number, row


def left_alone(
    space: Space, request: Choice, places: Sequence[int]
) -> Generator[None, None, list[errors_pb2.ItemError]]:
    """Return why calls by id leave tasks alone, for their positions in ``task_ids``."""
    errors: list[errors_pb2.ItemError] = []
    for item in places:
        yield
        task_id = request.task_ids[item]
        found = rows.find_task(space.workspace, space.prefix, task_id)
        if found is None:
            fault: Refused | None = no_such_task(task_id)
        else:
            fault = yield from keeps(space, request, *found)
        if fault is None:
            fault = _not_that_one("was no dead letter when the call was made")
        errors.append(item_error(fault))
    return errors


def _not_that_one(why: str) -> Refused:
    """Return the refusal of one task of a call; its id stands beside it."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
        message=why,
        field="task_ids",
        metadata={"field": "task_ids"},
    )


def looked_at_max(request: Choice, tasks_max: int) -> int:
    """Return how many of a queue's dead letters a call looks at.

    With a filter, or if it is only to count them, it looks at as many as it may; else it ends after
    ``max_tasks``, whether it takes them or passes them over.
    """
    if request.HasField("filter") or request.dry_run:
        return tasks_max
    return request.max_tasks or tasks_max


def keeps(
    space: Space, request: Choice, number: int, row: state_pb2.TaskRow
) -> Generator[None, None, Refused | None]:
    """Return why a task is not to be redriven or deleted."""
    if row.state != states.FAILED:
        state = task_pb2.TaskState.Name(row.state).removeprefix("TASK_STATE_")
        return _not_that_one(f"is {state}; only dead letters are taken")
    if isinstance(request, queue_service_pb2.DeleteDeadLettersRequest):
        hold = holds.keeps_from_removal(space, number, row, is_dead=True)
        return None if hold is None else hold.why
    if row.failure_reason == task_pb2.FAILURE_REASON_DEPENDENCY:
        if not request.task_ids:
            return _not_that_one("failed with another task: that one is redriven")
        why = yield from holds.fails_again(space, number, row)
        if why is not None:
            return _not_that_one(why)
    return None if request.force else holds.keeps_from_redrive(space, row)


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
