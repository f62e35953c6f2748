"""Backoff, dead letters, redrive."""

from __future__ import annotations

import random

import pytest

from tests.core.lone_queue import LoneQueue, at, replied, span, spec
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core.kernel.retries import backoff_ms
from tq_cluster.core.model.limits import DAY_MS, HOUR_MS
from tq_cluster.core.model.operations import Outcome, Refused

Policy = task_pb2.RetryPolicy
RedriveResponse = queue_service_pb2.RedriveResponse


class Always:
    """Draws the same number every time."""

    def __init__(self, drawn: float) -> None:
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


def test_the_backoff_doubles_from_5_s_up_to_an_hour_unless_told_otherwise() -> None:
    spans = [backoff_ms(Policy(no_jitter=True), attempt, Always(0)) for attempt in range(1, 13)]

    assert spans[:4] == [5_000, 10_000, 20_000, 40_000]
    assert spans[9:] == [2_560_000, HOUR_MS, HOUR_MS]


def test_full_jitter_waits_a_random_part_of_the_span() -> None:
    draw = random.Random(7)
    waits = [backoff_ms(Policy(), 3, draw) for _ in range(1_000)]

    assert 0 <= min(waits) < 1_000
    assert 19_000 < max(waits) < 20_000
    assert backoff_ms(Policy(), 3, Always(0.25)) == 5_000


@pytest.mark.parametrize(
    ("policy", "attempt", "expected_ms"),
    [
        (Policy(initial_backoff=span(100), multiplier=3), 4, 2_700),
        (Policy(initial_backoff=span(100), multiplier=1), 50, 100),
        (Policy(initial_backoff=span(0)), 7, 0),
        (Policy(max_backoff=span(0)), 7, 0),
        (Policy(initial_backoff=span(2_000), max_backoff=span(1_000)), 1, 1_000),
        (Policy(multiplier=100, max_backoff=span(7 * DAY_MS)), 1_000, 7 * DAY_MS),
        (Policy(initial_backoff=span(0), multiplier=100), 1_000, 0),
    ],
)
def test_a_tasks_own_policy_is_followed(policy: Policy, attempt: int, expected_ms: int) -> None:
    policy.no_jitter = True

    assert backoff_ms(policy, attempt, Always(0)) == expected_ms


def test_a_task_follows_the_policy_it_was_submitted_with() -> None:
    queue = LoneQueue(draw=Always(0.5))
    policy = Policy(initial_backoff=span(600), multiplier=10)
    queue.submitted(spec(task_id="one", retry_policy=policy))

    queue.fail(queue.claimed()[0])
    assert queue.task("one").due_at == at(300)
    queue.wait(300)
    queue.expire(queue.claimed()[0])
    assert queue.task("one").due_at == at(300 + 3_000)


def test_the_last_attempts_failure_makes_a_dead_letter_with_every_attempt_on_record() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", max_attempts=2))
    queue.fail(queue.claimed(worker="a")[0], "first", retry_after_ms=0)
    queue.wait(5)
    queue.fail(queue.claimed(worker="b")[0], "second", retry_after_ms=0)

    task = queue.task("one")
    assert queue.state("one") == "FAILED"
    assert task.failure_reason == task_pb2.FAILURE_REASON_ATTEMPTS_EXHAUSTED
    assert task.last_error == "second"
    assert [(each.worker_id, each.error) for each in task.attempts] == [
        ("a", "first"),
        ("b", "second"),
    ]
    assert queue.stats().failed == 1


def test_a_task_is_tried_5_times_unless_told_otherwise() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))

    for _ in range(4):
        queue.fail(queue.claimed()[0], retry_after_ms=0)
        assert queue.state("one") == "RETRYING"
        queue.wait(0)
    queue.fail(queue.claimed()[0])

    assert queue.state("one") == "FAILED"


def test_a_redriven_task_starts_over_and_keeps_its_history() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", max_attempts=1))
    queue.fail(queue.claimed()[0], "broke")
    queue.now_ms += 1_000

    reply = replied(queue.redrive("one"), RedriveResponse)

    assert (reply.redriven, list(reply.skipped_task_ids)) == (1, [])
    task = queue.task("one")
    assert queue.state("one") == "PENDING"
    assert (task.attempts_made, task.redrives) == (0, 1)
    assert task.failure_reason == task_pb2.FAILURE_REASON_UNSPECIFIED
    assert [attempt.error for attempt in task.attempts] == ["broke"]
    assert not task.HasField("finished_at")
    queue.complete(queue.claimed()[0])
    assert queue.state("one") == "COMPLETED"


def test_a_redriven_task_queues_up_behind_those_that_came_meanwhile() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="dead"))
    queue.fail(queue.claimed()[0], permanent=True)
    queue.now_ms += 1
    queue.submitted(spec(task_id="meanwhile"))
    queue.now_ms += 1

    queue.redrive("dead")

    assert queue.claimed_ids(2) == ["meanwhile", "dead"]


def test_redriving_skips_what_is_no_dead_letter() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="dead", max_attempts=1))
    queue.fail(queue.claimed()[0])
    queue.submitted(spec(task_id="alive"))

    reply = replied(queue.redrive("alive", "dead", "nobody", "dead"), RedriveResponse)

    assert reply.redriven == 1
    assert list(reply.skipped_task_ids) == ["alive", "nobody", "dead"]


def test_a_queues_dead_letters_are_redriven_in_slices_the_oldest_first() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"t{n}", max_attempts=1) for n in range(5)])
    queue.submitted(spec(queue="other", task_id="other", max_attempts=1))
    tasks = queue.claimed(5)
    for task in reversed(tasks):  # t4 fails first
        queue.fail(task)
        queue.now_ms += 1
    queue.fail(queue.claimed(queues=["other"])[0])

    counts = []
    for _ in range(3):
        reply = replied(queue.redrive(queue="default", max_tasks=3), RedriveResponse)
        counts.append(reply.redriven)
        if len(counts) == 1:
            assert queue.state("t4") == queue.state("t2") == "PENDING"
            assert queue.state("t1") == "FAILED"

    assert counts == [3, 2, 0]
    assert queue.state("other") == "FAILED"


@pytest.mark.parametrize("later_ms", [0, 1, 60_000])
def test_a_redrive_of_a_queue_ends_though_its_tasks_die_again_meanwhile(later_ms: int) -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"t{n}") for n in range(5)])
    for task in queue.claimed(5):
        queue.fail(task, permanent=True)

    counts: list[int] = []
    page_token = ""
    while not counts or page_token:
        outcome = queue.redrive(queue="default", max_tasks=2, page_token=page_token)
        reply = replied(outcome, RedriveResponse)
        counts.append(reply.redriven)
        page_token = reply.next_page_token
        queue.now_ms += later_ms
        for task in queue.claimed(5):
            queue.fail(task, permanent=True)

    assert counts == [2, 2, 1]
    assert [queue.task(f"t{n}").redrives for n in range(5)] == [1] * 5


def test_a_second_redrive_takes_what_died_again_even_within_one_millisecond() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"))
    for redrives in range(1, 4):
        queue.fail(queue.claimed()[0], permanent=True)

        assert replied(queue.redrive(queue="default"), RedriveResponse).redriven == 1
        assert queue.task("a").redrives == redrives


def test_one_that_was_redriven_and_died_as_it_waited_for_its_next_attempt_is_redriven_again() -> (
    None
):
    queue = LoneQueue()
    queue.submitted(spec(task_id="a", expire_at=at(HOUR_MS)))
    queue.fail(queue.claimed()[0], permanent=True)
    queue.redrive("a")
    queue.fail(queue.claimed()[0], retry_after_ms=DAY_MS)
    queue.wait(DAY_MS - 1)
    queue.wait(1)
    queue.claimed()  # which finds it expired

    assert queue.state("a") == "FAILED"
    assert replied(queue.redrive(queue="default"), RedriveResponse).redriven == 1


def test_a_redrive_goes_on_with_the_token_of_its_queue_alone() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"), spec(task_id="b"), spec(queue="other", task_id="c"))
    for task in queue.claimed(2):
        queue.fail(task, permanent=True)
    token = replied(queue.redrive(queue="default", max_tasks=1), RedriveResponse).next_page_token

    assert fault_of(queue.redrive(queue="other", page_token=token)) == "page_token"
    assert fault_of(queue.redrive("b", page_token=token)) == "page_token"
    assert fault_of(queue.redrive(queue="default", page_token="made-up")) == "page_token"
    assert queue.state("b") == "FAILED"


def fault_of(outcome: Outcome) -> str:
    """The field that a refused call is refused for."""
    assert isinstance(outcome, Refused)
    return outcome.field


def test_a_redriven_task_that_had_expired_is_started_all_the_same() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="late", expire_at=at(100)))
    queue.wait(200)
    assert queue.state("late") == "FAILED"

    queue.redrive("late")
    queue.wait(200)

    assert queue.claimed_ids() == ["late"]
