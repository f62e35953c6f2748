"""Reads in steps: how much of the state one step looks at, and what becomes of it in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.core.lone_queue import LoneQueue, reason, replied, spec
from tests.scopes import scope_of
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2
from tq_cluster.core.model.operations import Outcome, Refused, Replied
from tq_cluster.core.reads import listings, pages, queries
from tq_cluster.core.reads import steps as reading
from tq_cluster.core.reads.steps import COST_BYTES, Reader, Steps
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.tables import CHUNK_BYTES
from tq_cluster.core.rows.view import View

GetTask = task_service_pb2.GetTaskRequest
ListTasks = task_service_pb2.ListTasksRequest
ListDeadLetters = queue_service_pb2.ListDeadLettersRequest
ListQueues = queue_service_pb2.ListQueuesRequest

Query = Callable[[Scope[Reader], Any], Steps[Replied | Refused]]


class CountingView:
    """A view that counts the rows that are read through it, and how large they are."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.rows = 0
        self.bytes = 0

    def get(self, table: int, key: bytes) -> bytes | None:
        value = self._view.get(table, key)
        self._count(value)
        return value

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for row in self._view.scan(table, start, stop, limit=limit, reverse=reverse):
            self._count(row[1])
            yield row

    def _count(self, value: bytes | None) -> None:
        self.rows += 1
        self.bytes += len(value or b"")


class Asked:
    """A read that a test has make one step after the other."""

    def __init__(
        self,
        queue: LoneQueue,
        query: Query,
        request: Message,
        holds: Callable[[int], None] | None = None,
    ) -> None:
        self._queue = queue
        self._reader = Reader()
        self._reader.holds = holds
        self._steps = query(scope_of(self._reader), request)
        self.counted: list[CountingView] = []
        """What each step read."""

    def step(self) -> Outcome | None:
        """Make one; the answer, if that was the last."""
        view = CountingView(self._queue.store.view())
        self.counted.append(view)
        self._reader.renew(view)
        try:
            next(self._steps)
        except StopIteration as end:
            answer: Outcome = end.value
            return answer
        return None

    def answer(self) -> Outcome:
        """Make all that are left."""
        while (answer := self.step()) is None:
            pass
        return answer


def pages_of(queue: LoneQueue, query: Query, request: Any) -> list[tuple[Any, Asked]]:  # noqa: ANN401  # any list's
    """Every page of a list, with how it was read."""
    found = []
    while True:
        asked = Asked(queue, query, request)
        answer = asked.answer()
        assert isinstance(answer, Replied), answer
        reply: Any = answer.reply
        found.append((reply, asked))
        request.page_token = reply.next_page_token
        if not request.page_token:
            return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and pages of which a few rows make many."""
    monkeypatch.setattr(reading, "STEP_COST", 20)
    monkeypatch.setattr(reading, "READ_COST_MAX", 100)


def failed(queue: LoneQueue, count: int, attempts: int) -> None:
    """Make dead letters of so many attempts."""
    queue.submitted(*[spec(task_id=f"t{n}", max_attempts=attempts) for n in range(count)])
    for _ in range(attempts):
        for task in queue.claimed(count):
            queue.fail(task, "e" * 2_000, retry_after_ms=0)
        queue.wait(0)


class NoRoomError(Exception):
    """There is none for the answer."""


def no_room(size: int) -> None:
    raise NoRoomError(size)


def test_the_size_of_a_task_is_told_before_it_is_read_and_who_has_no_room_reads_none_of_it() -> (
    None
):
    queue = LoneQueue()
    size = 100 * CHUNK_BYTES
    queue.submitted(spec(task_id="t", payload=bytes(size)))
    (claimed,) = queue.claimed()
    queue.complete(claimed, bytes(size))

    asked = Asked(queue, queries.get_task, GetTask(task_id="t"), no_room)
    with pytest.raises(NoRoomError) as raised:
        asked.answer()
    assert raised.value.args == (2 * size,)
    assert sum(view.bytes for view in asked.counted) < CHUNK_BYTES

    told: list[int] = []
    Asked(queue, queries.get_task, GetTask(task_id="t"), told.append).answer()
    assert told == [2 * size]
    Asked(queue, queries.get_task, GetTask(task_id="t", omit_payload=True), no_room).answer()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("narrowed", [{}, {"queue": "default"}, {"type": "none"}])
def test_a_step_of_a_list_reads_a_bounded_number_of_rows(narrowed: dict[str, Any]) -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"t{n}") for n in range(200)])

    found = pages_of(queue, listings.list_tasks, ListTasks(page_size=1_000, **narrowed))

    steps = [view.rows for _, asked in found for view in asked.counted]
    # A task's row and its spec, and a look at each of the states that a queue's tasks are in.
    assert max(steps) <= 20 + 2 + len(states_of_a_queue(narrowed))
    assert max(len(asked.counted) for _, asked in found) > 1
    assert max(sum(view.rows for view in asked.counted) for _, asked in found) <= 100 + 10
    listed = [task.spec.task_id for reply, _ in found for task in reply.tasks]
    assert listed == ([] if "type" in narrowed else [f"t{n}" for n in reversed(range(200))])


def states_of_a_queue(narrowed: dict[str, Any]) -> list[int]:
    return list(task_pb2.TaskState.values()) if "queue" in narrowed else []


@pytest.mark.usefixtures("small")
def test_a_page_of_dead_letters_with_long_histories_is_short_and_the_next_one_goes_on() -> None:
    queue = LoneQueue()
    failed(queue, count=10, attempts=8)

    found = pages_of(queue, listings.list_dead_letters, ListDeadLetters(page_size=1_000))

    assert len(found) > 1
    steps = [view for _, asked in found for view in asked.counted]
    one = 3 + 8  # its row, its spec, its place among the dead letters; its history
    assert max(view.rows for view in steps) <= 20 + one
    assert max(view.bytes for view in steps) <= (20 + one) * COST_BYTES + 8 * 2_000
    ids = [task.spec.task_id for reply, _ in found for task in reply.tasks]
    assert sorted(ids) == [f"t{n}" for n in range(10)]


@pytest.mark.usefixtures("small")
def test_a_page_of_queues_with_many_priorities_is_short_and_the_next_one_goes_on() -> None:
    queue = LoneQueue()
    names = [f"q{n:02}" for n in range(20)]
    for name in names:
        queue.configure(name, ordering=queue_service_pb2.QueueSettings.ORDERING_AGING)
        queue.submitted(*[spec(queue=name, priority=n) for n in range(30)])

    found = pages_of(queue, listings.list_queues, ListQueues(page_size=1_000))

    assert len(found) > 1
    assert all(reply.queues for reply, _ in found[:-1])
    assert max(view.rows for _, asked in found for view in asked.counted) <= 20 + 2 * 30 + 4
    assert [each.queue for reply, _ in found for each in reply.queues] == names


def test_a_task_that_moves_between_two_steps_is_listed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "STEP_COST", 20)
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"t{n:02}") for n in range(30)])
    pending, running = task_pb2.TASK_STATE_PENDING, task_pb2.TASK_STATE_RUNNING
    request = ListTasks(queue="default", states=[pending, running], page_size=1_000)
    asked = Asked(queue, listings.list_tasks, request)

    answer = asked.step()
    while answer is None:
        queue.claimed(3)  # the oldest, which the list has not come to
        answer = asked.step()

    assert len(asked.counted) > 2
    tasks = replied(answer, task_service_pb2.ListTasksResponse).tasks
    assert [task.spec.task_id for task in tasks] == [f"t{n:02}" for n in reversed(range(30))]
    assert {task.state for task in tasks} == {pending, running}


@pytest.mark.parametrize(
    ("query", "request_", "field"),
    [
        (listings.list_tasks, ListTasks(states=[task_pb2.TASK_STATE_FAILED] * 9), "states"),
        (listings.list_tasks, ListTasks(labels={str(n): "v" for n in range(33)}), "labels"),
        (listings.list_tasks, ListTasks(labels={"k" * 65: "v"}), "labels"),
        (listings.list_tasks, ListTasks(type="t" * 129), "type"),
        (listings.list_tasks, ListTasks(queue="q" * 129), "queue"),
        (listings.list_tasks, ListTasks(page_token="A" * 3_000), "page_token"),
        (listings.list_dead_letters, ListDeadLetters(queue="q" * 129), "queue"),
        (listings.list_dead_letters, ListDeadLetters(page_token="A" * 3_000), "page_token"),
        (listings.list_queues, ListQueues(page_token="A" * 3_000), "page_token"),
    ],
)
def test_filters_beyond_what_a_task_can_have_are_refused_before_a_row_is_read(
    query: Query, request_: Message, field: str
) -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    asked = Asked(queue, query, request_)

    answer = asked.answer()

    assert reason(answer) == "INVALID_ARGUMENT"
    assert isinstance(answer, Refused)
    assert answer.field == field
    assert asked.counted[0].rows == 0


def test_a_refused_list_of_states_says_how_many_are_taken() -> None:
    asked = Asked(
        LoneQueue(), listings.list_tasks, ListTasks(states=[task_pb2.TASK_STATE_FAILED] * 63_000)
    )

    answer = asked.answer()

    assert isinstance(answer, Refused)
    assert answer.message == "states has 63000 items; at most 8 are taken"


def test_a_token_that_was_too_long_for_any_list_is_not_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode(_token: bytes) -> bytes:
        raise AssertionError("it was")

    monkeypatch.setattr(pages, "urlsafe_b64decode", decode)

    assert isinstance(pages.position_of(ListTasks(), "A" * (pages.TOKEN_CHARS_MAX + 1)), Refused)


def test_a_listed_task_costs_its_newest_attempt_and_not_its_history() -> None:
    queue = LoneQueue()
    failed(queue, count=1, attempts=20)
    asked = Asked(queue, listings.list_tasks, ListTasks())

    tasks = replied(asked.answer(), task_service_pb2.ListTasksResponse).tasks

    assert tasks[0].last_error == "e" * 2_000
    assert sum(view.rows for view in asked.counted) <= 4


@pytest.mark.usefixtures("small")
def test_a_large_task_is_read_piece_by_piece_and_whole() -> None:
    queue = LoneQueue()
    payload, result = bytes(range(256)) * 2_000, bytes(reversed(range(256))) * 3_000
    queue.submitted(spec(task_id="large", payload=payload))
    queue.complete(queue.claimed()[0], result)
    asked = Asked(queue, queries.get_task, GetTask(task_id="large"))

    task = replied(asked.answer(), task_service_pb2.GetTaskResponse).task

    assert (task.spec.payload, task.result) == (payload, result)
    assert max(view.bytes for view in asked.counted) <= 2 * (64 << 10)


@pytest.mark.usefixtures("small")
def test_a_task_that_is_removed_while_it_is_read_is_not_found() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="large", payload=bytes(500_000), max_attempts=1))
    queue.fail(queue.claimed()[0])
    asked = Asked(queue, queries.get_task, GetTask(task_id="large"))

    assert asked.step() is None
    assert asked.step() is None
    queue.delete("large")

    assert reason(asked.answer()) == "NOT_FOUND"


def test_a_page_of_large_tasks_is_short_since_it_is_put_into_bytes_at_once() -> None:
    queue = LoneQueue()
    labels = {f"{n:02}".rjust(64, "k"): "v" * 256 for n in range(32)}
    for _ in range(3):
        queue.submitted(*[spec(labels=labels) for _ in range(100)])

    found = pages_of(queue, listings.list_tasks, ListTasks(page_size=1_000))

    sizes = [reply.ByteSize() for reply, _ in found]
    assert max(sizes) < listings.PAGE_BYTES_MAX + 12_000
    assert sum(len(reply.tasks) for reply, _ in found) == 300
    assert len(found) > 1
