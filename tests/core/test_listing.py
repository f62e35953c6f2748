"""Lists and counts: what callers see of many tasks at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from tests.core.lone_queue import LoneQueue, at, reason, replied, span, spec
from tests.scopes import scope_of
from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2
from tq_cluster.core.model.limits import DAY_MS, Limits
from tq_cluster.core.model.operations import Outcome
from tq_cluster.core.reads import listings, pages, queries
from tq_cluster.core.reads.steps import Steps, in_one_go
from tq_cluster.core.rows import tables

ListTasks = task_service_pb2.ListTasksRequest
ListTasksReply = task_service_pb2.ListTasksResponse
ListDeadLetters = queue_service_pb2.ListDeadLettersRequest
ListDeadLettersReply = queue_service_pb2.ListDeadLettersResponse
ListQueues = queue_service_pb2.ListQueuesRequest
ListQueuesReply = queue_service_pb2.ListQueuesResponse


def list_tasks(queue: LoneQueue, request: ListTasks) -> Outcome:
    return in_one_go(scope_of(queue.store.view()), queries.list_tasks, request)


def every_task(queue: LoneQueue, request: ListTasks) -> list[str]:
    """The ids on all pages."""
    ids: list[str] = []
    while True:
        reply = replied(list_tasks(queue, request), ListTasksReply)
        ids.extend(task.spec.task_id for task in reply.tasks)
        if not reply.next_page_token:
            return ids
        request.page_token = reply.next_page_token


def mixed_queue() -> LoneQueue:
    """Two queues with a task in every state."""
    queue = LoneQueue()
    for name in ("a", "b"):
        queue.submitted(
            spec(queue=name, task_id=f"{name}-completed"),
            spec(queue=name, task_id=f"{name}-failed", max_attempts=1),
            spec(queue=name, task_id=f"{name}-retrying"),
            spec(queue=name, task_id=f"{name}-running"),
            spec(queue=name, task_id=f"{name}-pending", type="other", labels={"x": "1", "y": "2"}),
            spec(queue=name, task_id=f"{name}-cancelled"),
            spec(queue=name, task_id=f"{name}-scheduled", run_at=at(1_000_000)),
        )
        completed, failed, retrying, _ = queue.claimed(4, queues=[name])
        queue.complete(completed)
        queue.fail(failed)
        queue.fail(retrying)
        queue.cancel(f"{name}-cancelled")
    return queue


def test_tasks_are_listed_newest_first_over_all_queues() -> None:
    queue = mixed_queue()

    ids = every_task(queue, ListTasks(page_size=3))

    order = ["scheduled", "cancelled", "pending", "running", "retrying", "failed", "completed"]
    assert ids == [f"{name}-{state}" for name in ("b", "a") for state in order]


@pytest.mark.parametrize("page_size", [1, 2, 100])
@pytest.mark.parametrize("queue_name", ["", "a"])
@pytest.mark.parametrize(
    "states",
    [
        ["PENDING"],
        ["RUNNING"],
        ["SCHEDULED", "RETRYING"],
        ["FAILED", "COMPLETED", "CANCELLED"],
        ["COMPLETED", "COMPLETED"],
        [],
    ],
)
def test_a_list_has_the_tasks_in_the_states_asked_for_and_each_once(
    queue_name: str, states: list[str], page_size: int
) -> None:
    queue = mixed_queue()
    wanted = [task_pb2.TaskState.Value(f"TASK_STATE_{state}") for state in states]
    request = ListTasks(queue=queue_name, states=wanted, page_size=page_size)

    ids = every_task(queue, request)

    everything = every_task(queue, ListTasks(queue=queue_name))
    assert ids == [each for each in everything if not states or queue.state(each) in states]
    assert len(everything) == (7 if queue_name else 14)


def test_a_list_can_be_narrowed_to_a_type_and_to_labels() -> None:
    queue = mixed_queue()

    assert every_task(queue, ListTasks(type="other")) == ["b-pending", "a-pending"]
    assert every_task(queue, ListTasks(queue="a", labels={"x": "1"})) == ["a-pending"]
    assert every_task(queue, ListTasks(labels={"x": "1", "y": "3"})) == []
    assert every_task(queue, ListTasks(queue="nobody-named-it")) == []


def test_a_listed_task_comes_without_payload_result_and_history_and_with_its_last_error() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", payload=b"small"), spec(payload=bytes(100_000)))
    one, two = queue.claimed(2)
    queue.fail(one, "broke")
    queue.complete(two, b"result")

    listed = replied(list_tasks(queue, ListTasks()), ListTasksReply).tasks

    assert [task.spec.payload for task in listed] == [b"", b""]
    assert [task.result for task in listed] == [b"", b""]
    assert [list(task.attempts) for task in listed] == [[], []]
    assert listed[1].last_error == "broke"


def test_a_task_read_without_its_payload_keeps_everything_else() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", payload=bytes(100_000)))
    queue.complete(queue.claimed()[0], bytes(100_000))
    request = task_service_pb2.GetTaskRequest(task_id="one", omit_payload=True)

    outcome = in_one_go(scope_of(queue.store.view()), queries.get_task, request)

    task = replied(outcome, task_service_pb2.GetTaskResponse).task
    whole = queue.task("one")
    whole.ClearField("result")
    whole.spec.ClearField("payload")
    assert task == whole


def test_a_page_looks_at_a_bounded_number_of_tasks_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listings, "SCAN_MAX", 10)
    queue = LoneQueue()
    queue.submitted(spec(task_id="rare", type="rare"), *[spec() for _ in range(25)])
    request = ListTasks(type="rare")

    first = replied(list_tasks(queue, request), ListTasksReply)

    assert list(first.tasks) == []
    assert first.next_page_token
    assert every_task(queue, request) == ["rare"]


def test_a_page_stays_below_the_limit_of_a_reply() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(labels={"k": "v" * 200}) for _ in range(10)])
    limits = Limits(reply_bytes_max=1_000)

    outcome = in_one_go(
        scope_of(queue.store.view()),
        queries.list_tasks,
        ListTasks(),
        limits=limits,
    )

    reply = replied(outcome, ListTasksReply)
    assert 0 < len(reply.tasks) < 6
    assert reply.next_page_token


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (queries.list_tasks, ListTasks),
        (queries.list_dead_letters, ListDeadLetters),
        (queries.list_queues, ListQueues),
    ],
)
def test_page_sizes_and_tokens_that_make_no_sense_are_refused(
    query: Callable[..., Steps[Outcome]], kind: Callable[..., Message]
) -> None:
    queue = mixed_queue()

    for request in (
        kind(page_size=1_001),
        kind(page_token="nonsense"),
        kind(page_token="\u00e9"),
        kind(page_token="AAAAAAAAAAAA"),
    ):
        outcome = in_one_go(scope_of(queue.store.view()), query, request)
        assert reason(outcome) == "INVALID_ARGUMENT"


def test_a_page_token_belongs_to_its_filters() -> None:
    queue = mixed_queue()
    token = replied(list_tasks(queue, ListTasks(page_size=1)), ListTasksReply).next_page_token

    other = ListTasks(page_size=1, queue="a", page_token=token)

    assert reason(list_tasks(queue, other)) == "INVALID_ARGUMENT"
    larger_page = ListTasks(page_size=5, page_token=token)
    assert len(replied(list_tasks(queue, larger_page), ListTasksReply).tasks) == 5


def test_a_list_of_states_that_are_none_is_refused() -> None:
    queue = mixed_queue()

    unspecified = ListTasks(states=[task_pb2.TASK_STATE_UNSPECIFIED])
    unknown = ListTasks.FromString(b"\x10\x63")  # state 99, as a newer client might send
    assert reason(list_tasks(queue, unspecified)) == "INVALID_ARGUMENT"
    assert reason(list_tasks(queue, unknown)) == "INVALID_ARGUMENT"
    assert reason(list_tasks(queue, ListTasks(queue="not a name"))) == "INVALID_ARGUMENT"


def test_dead_letters_are_listed_with_their_histories_the_last_to_fail_first() -> None:
    queue = LoneQueue()
    for n in range(5):
        queue.submitted(spec(queue=f"q{n % 2}", task_id=f"t{n}", payload=b"x", max_attempts=1))
    tasks = [*queue.claimed(5, queues=["q0", "q1"])]
    for task in reversed(tasks):
        queue.fail(task, f"error of {task.spec.task_id}")
        queue.now_ms += 1

    def pages(queue_name: str) -> list[task_pb2.Task]:
        found: list[task_pb2.Task] = []
        request = ListDeadLetters(queue=queue_name, page_size=2)
        while True:
            outcome = in_one_go(scope_of(queue.store.view()), queries.list_dead_letters, request)
            reply = replied(outcome, ListDeadLettersReply)
            found.extend(reply.tasks)
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    assert [task.spec.task_id for task in pages("")] == ["t0", "t1", "t2", "t3", "t4"]
    assert [task.spec.task_id for task in pages("q1")] == ["t1", "t3"]
    assert pages("q9") == []
    first = pages("")[0]
    assert first.attempts[0].error == first.last_error == "error of t0"
    assert first.spec.payload == b""


def test_queues_are_listed_by_name_with_their_counts() -> None:
    queue = mixed_queue()
    queue.configure("c", paused=True)
    request = ListQueues(page_size=2)

    first = replied(
        in_one_go(scope_of(queue.store.view()), queries.list_queues, request),
        ListQueuesReply,
    )
    request.page_token = first.next_page_token
    second = replied(
        in_one_go(scope_of(queue.store.view()), queries.list_queues, request),
        ListQueuesReply,
    )

    assert [each.queue for each in first.queues] == ["a", "b"]
    assert [each.queue for each in second.queues] == ["c"]
    assert second.queues[0].settings.paused
    stats = first.queues[0]
    counted = (stats.scheduled, stats.pending, stats.running, stats.retrying)
    assert counted == (1, 1, 1, 1)
    assert (stats.completed, stats.failed, stats.cancelled) == (1, 1, 1)


def test_the_stats_of_a_queue_tell_since_when_its_next_task_has_waited() -> None:
    queue = LoneQueue()
    queue.submitted(spec(priority=0))
    queue.now_ms += 10
    queue.submitted(spec(priority=5))

    assert queue.stats().oldest_pending_at == at(10)
    queue.claimed()
    assert queue.stats().oldest_pending_at == at(0)
    queue.claimed()
    assert not queue.stats().HasField("oldest_pending_at")


def test_totals_count_what_happened_and_never_fall() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"t{n}", max_attempts=2) for n in range(4)])
    done, failing, released, cancelled = queue.claimed(4)
    queue.complete(done)
    queue.fail(failing, retry_after_ms=0)
    queue.release(released)
    queue.cancel(cancelled.spec.task_id)
    queue.release(cancelled)
    queue.wait(0)
    again = {task.spec.task_id: task for task in queue.claimed(9)}
    queue.fail(again["t1"])
    queue.redrive("t1")
    queue.fail(queue.claimed()[0], permanent=True)
    before = queue.stats().totals

    queue.delete("t1")
    queue.now_ms += 30 * DAY_MS
    queue.remove_retired()

    assert queue.stats().completed == queue.stats().failed == queue.stats().cancelled == 0
    assert queue.stats().totals == before
    assert before == queue_service_pb2.QueueTotals(
        submitted=4, claimed=7, completed=1, retried=1, failed=2, cancelled=1
    )


def test_a_queue_of_a_version_that_kept_no_totals_is_counted_from_now_on() -> None:
    queue = LoneQueue()
    queue.submitted(spec(), spec())
    key = tables.queue_key(tables.prefix_of(0), 1)
    row = state_pb2.QueueRow.FromString(queue.store.view().get(tables.QUEUES, key) or b"")
    row.ClearField("entries_by_state")
    queue.overwrite(tables.QUEUES, key, row.SerializeToString())

    assert queue.stats().totals == queue_service_pb2.QueueTotals()
    queue.submitted(spec())
    assert queue.stats().totals.submitted == 1
    assert queue.stats().pending == 3


def test_the_stats_of_a_queue_that_no_task_named_are_not_found() -> None:
    queue = LoneQueue()
    for name in ("nobody-named-it", "", "x" * 1_000, "\u00e9"):
        request = queue_service_pb2.GetQueueStatsRequest(queue=name)
        outcome = in_one_go(scope_of(queue.store.view()), queries.queue_stats, request)
        assert reason(outcome) == "NOT_FOUND"


def test_a_queues_settings_are_replaced_as_a_whole() -> None:
    queue = LoneQueue()
    settings = queue_service_pb2.QueueSettings
    queue.configure(ordering=settings.ORDERING_AGING, aging=span(5), paused=True)

    outcome = queue.configure()

    reply = replied(outcome, queue_service_pb2.ConfigureQueueResponse)
    expected = settings(ordering=settings.ORDERING_STRICT, aging=span(1_000))
    expected.etag = reply.settings.etag
    assert reply.settings == queue.stats().settings == expected


def test_a_token_of_another_list_is_refused() -> None:
    queue = mixed_queue()
    view = queue.store.view()
    queues = replied(
        in_one_go(scope_of(view), queries.list_queues, ListQueues(page_size=1)),
        ListQueuesReply,
    )
    assert queues.next_page_token

    refused = list_tasks(queue, ListTasks(page_token=queues.next_page_token))

    assert reason(refused) == "INVALID_ARGUMENT"


def test_a_token_that_was_made_up_is_refused() -> None:
    queue = mixed_queue()
    view = queue.store.view()
    tasks, dead = ListTasks(), ListDeadLetters()
    tasks.page_token = pages.token_of(tasks, bytes(9))
    dead.page_token = pages.token_of(dead, bytes(9))

    assert reason(list_tasks(queue, tasks)) == "INVALID_ARGUMENT"
    refused = in_one_go(scope_of(view), queries.list_dead_letters, dead)
    assert reason(refused) == "INVALID_ARGUMENT"
