"""Cancelling tasks."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, reason, replied, spec, state_of, status
from tq.v1 import task_pb2, task_service_pb2
from tq_cluster.core.model.operations import Cancel
from tq_cluster.core.model.types import DEFAULT_NAMESPACE

Response = task_service_pb2.CancelTaskResponse
Attempt = task_pb2.Attempt


def test_a_pending_task_is_cancelled_at_once() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    queue.now_ms += 7

    reply = replied(queue.cancel("one"), Response)

    assert reply.state == task_pb2.TASK_STATE_CANCELLED
    assert reply.cancelled_at == at(7)
    assert queue.claimed() == []
    assert queue.stats().cancelled == 1


@pytest.mark.parametrize("state", ["SCHEDULED", "RETRYING"])
def test_a_task_that_waits_for_its_time_is_cancelled_for_good(state: str) -> None:
    queue = LoneQueue()
    if state == "SCHEDULED":
        queue.submitted(spec(task_id="one", run_at=at(1_000)))
    else:
        queue.submitted(spec(task_id="one"))
        queue.fail(queue.claimed()[0], retry_after_ms=1_000)
    assert queue.state("one") == state

    queue.cancel("one")
    queue.wait(10_000)

    assert queue.state("one") == "CANCELLED"
    assert queue.claimed() == []


def test_a_running_task_is_marked_and_its_workers_failure_ends_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()

    reply = replied(queue.cancel("one"), Response)

    assert reply.state == task_pb2.TASK_STATE_RUNNING
    assert not reply.HasField("cancelled_at")
    assert queue.task("one").cancel_requested
    result = queue.fail(claimed, "stopped")
    assert (status(result), state_of(result)) == ("CANCELLED", "CANCELLED")
    task = queue.task("one")
    assert (task.attempts[0].end, task.attempts[0].error) == (Attempt.END_CANCELLED, "stopped")
    assert not task.cancel_requested
    assert status(queue.fail(claimed, "stopped")) == "ALREADY_RECORDED"


def test_a_release_ends_a_marked_task_too() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    queue.cancel("one")

    assert status(queue.release(claimed)) == "CANCELLED"
    assert queue.state("one") == "CANCELLED"


def test_a_worker_that_finished_before_it_heard_of_the_cancel_has_completed_the_task() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    queue.cancel("one")

    result = queue.complete(claimed, b"done")

    assert (status(result), state_of(result)) == ("RECORDED", "COMPLETED")
    assert queue.task("one").result == b"done"


def test_a_marked_task_whose_lease_expires_is_cancelled() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    queue.cancel("one")

    queue.expire(claimed)

    assert queue.state("one") == "CANCELLED"
    assert queue.task("one").attempts[0].end == Attempt.END_CANCELLED
    assert status(queue.complete(claimed)) == "LEASE_LOST"


def test_cancelling_again_or_a_terminal_task_changes_nothing() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="done"), spec(task_id="marked"))
    done, _ = queue.claimed(2)
    queue.complete(done)
    queue.cancel("marked")
    entries = len(queue.entries)

    assert replied(queue.cancel("done"), Response).state == task_pb2.TASK_STATE_COMPLETED
    assert replied(queue.cancel("marked"), Response).state == task_pb2.TASK_STATE_RUNNING
    assert len(queue.entries) == entries


def test_cancelling_what_is_not_there_says_so() -> None:
    queue = LoneQueue()

    assert reason(queue.cancel("nobody")) == "NOT_FOUND"
    assert reason(queue.cancel("")) == "NOT_FOUND"


def test_those_who_wait_for_a_task_hear_that_it_was_cancelled() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    request = task_service_pb2.CancelTaskRequest(task_id="one")

    assert queue.decide(Cancel(request=request)).wakeups.finished == {(DEFAULT_NAMESPACE, "one")}
