"""A queue reports what became of its tasks, if a caller asked for that."""

from __future__ import annotations

from tests.core.lone_queue import LoneQueue, spec
from tq.v1 import task_pb2
from tq_cluster.core.model.events import What

TRACE = "00-11111111111111111111111111111111-2222222222222222-01"


def story(queue: LoneQueue) -> list[str]:
    """The events so far, in short."""
    return [f"{event.what} {event.task_id}" for event in queue.events]


def test_a_task_that_fails_once_and_then_succeeds_is_told_step_by_step() -> None:
    queue = LoneQueue(tell_events=True)
    queue.submitted(spec(task_id="a", traceparent=TRACE))

    [first] = queue.claimed(worker="w1")
    queue.fail(first, retry_after_ms=1_000)
    queue.wait(1_000)
    [second] = queue.claimed(worker="w2")
    queue.complete(second)

    assert story(queue) == [
        "task submitted a",
        "task assigned a",
        "task retried a",
        "task assigned a",
        "task completed a",
    ]
    assert [(event.attempt, event.worker_id) for event in queue.events] == [
        (0, ""),
        (1, "w1"),
        (1, "w1"),
        (2, "w2"),
        (2, "w2"),
    ]
    retried = queue.events[2]
    assert (retried.queue, retried.task_type, retried.traceparent) == ("default", "work", TRACE)
    assert retried.due_at_ms == queue.now_ms


def test_each_way_to_die_names_its_reason() -> None:
    queue = LoneQueue(tell_events=True)
    queue.submitted(spec(task_id="permanent"), spec(task_id="exhausted", max_attempts=1))
    permanent, exhausted = queue.claimed(2)
    queue.fail(permanent, permanent=True)
    queue.expire(exhausted)

    assert story(queue)[-3:] == [
        "task dead permanent",
        "lease expired exhausted",
        "task dead exhausted",
    ]
    assert [event.reason for event in queue.events if event.what is What.DEAD] == [
        task_pb2.FAILURE_REASON_PERMANENT_ERROR,
        task_pb2.FAILURE_REASON_ATTEMPTS_EXHAUSTED,
    ]


def test_cancelling_releasing_purging_and_redriving_are_told() -> None:
    queue = LoneQueue(tell_events=True)
    queue.submitted(spec(task_id="a"), spec(task_id="b"), spec(task_id="c"))
    [a] = queue.claimed()
    queue.release(a)
    queue.cancel("b")
    [a] = queue.claimed()
    queue.fail(a, permanent=True)
    queue.redrive("a")
    queue.purge()

    assert story(queue)[4:] == [
        "task released a",
        "task cancelled b",
        "task assigned a",
        "task dead a",
        "task redriven a",
        "task cancelled a",
        "task cancelled c",
    ]


def test_what_a_completion_submits_is_told_too() -> None:
    queue = LoneQueue(tell_events=True)
    queue.submitted(spec(task_id="a"))
    [a] = queue.claimed()
    queue.complete(a, submit=[spec(task_id="b")])

    assert story(queue)[2:] == ["task submitted b", "task completed a"]


def test_a_call_that_changes_nothing_tells_nothing() -> None:
    queue = LoneQueue(tell_events=True)
    queue.submitted(spec(task_id="a"), request_id="r1")
    queue.submitted(spec(task_id="a"), request_id="r1")
    [a] = queue.claimed()
    queue.complete(a)
    queue.complete(a)

    assert story(queue) == ["task submitted a", "task assigned a", "task completed a"]


def test_nothing_is_gathered_where_nobody_asked() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"))

    assert queue.events == []
