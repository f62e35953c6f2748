"""A state that becomes the beginning of another cluster: no lease of the old one counts."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import START_MS, LoneQueue, spec, status
from tq.v1 import errors_pb2, task_pb2
from tq_cluster.core.model.limits import DAY_MS
from tq_cluster.core.model.operations import EndLeases, FormCluster, LeaveCluster, Refused
from tq_cluster.core.reads import queries

HOUR_MS = 3_600_000


def form(queue: LoneQueue, wall_ms: int, cluster_id: str = "c-2") -> None:
    queue.decide(
        FormCluster(
            cluster_id=cluster_id, members={"n1": "i-1"}, cluster_version=1, wall_ms=wall_ms
        )
    )


def restored(queue: LoneQueue, made_at_ms: int = START_MS) -> None:
    """Do to the queue's state what a restore does."""
    while queue.decide(EndLeases(quarantine=False, tasks_max=2)).outcomes[0].more:  # type: ignore[union-attr]  # it is Done
        pass
    queue.decide(LeaveCluster(made_at_ms=made_at_ms))


def test_running_tasks_are_ready_again_as_if_the_attempt_had_not_been() -> None:
    queue = LoneQueue()
    form(queue, START_MS, "c-1")
    ids = queue.submitted(*(spec(max_attempts=1) for _ in range(5)))
    held = queue.claimed(5)

    restored(queue)

    assert [queue.state(task_id) for task_id in ids] == ["PENDING"] * 5
    assert [status(queue.complete(task)) for task in held] == ["LEASE_LOST"] * 5
    assert queue.heartbeat(*held) == (["LEASE_LOST"] * 5, [])
    task = queue.task(ids[0])
    assert task.attempts_made == 0
    assert [attempt.end for attempt in task.attempts] == [task_pb2.Attempt.END_RELEASED]


def test_a_running_task_that_was_to_be_cancelled_is_cancelled() -> None:
    queue = LoneQueue()
    [task_id] = queue.submitted(spec())
    queue.claimed()
    queue.cancel(task_id)

    restored(queue)

    assert queue.state(task_id) == "CANCELLED"


def test_nothing_is_leased_before_the_new_cluster_is_formed() -> None:
    queue = LoneQueue()
    form(queue, START_MS, "c-1")
    queue.submitted(spec())
    restored(queue)

    refused = queue.claim()

    assert isinstance(refused, Refused)
    assert refused.reason == errors_pb2.ERROR_REASON_NO_LEADER
    assert queries.membership(queue.store.view()) is None
    form(queue, START_MS)
    assert len(queue.claimed()) == 1
    membership = queries.membership(queue.store.view())
    assert membership is not None
    assert membership[0] == "c-2"


@pytest.mark.parametrize("behind_ms", [0, HOUR_MS])
def test_tokens_go_on_above_all_that_the_old_cluster_granted_after_the_backup(
    behind_ms: int,
) -> None:
    """Also where the wall clocks were behind its log time, or its log time ran a tenth faster."""
    old, new = LoneQueue(), LoneQueue()
    for queue in (old, new):
        form(queue, START_MS, "c-1")
        queue.submitted(spec(), spec())
        queue.claimed()
    made_at_ms = START_MS - behind_ms
    restored(new, made_at_ms)

    old.wait(HOUR_MS * 11 // 10)
    [granted] = old.claimed()
    form(new, made_at_ms + HOUR_MS)
    # Log time of the new cluster goes on from the backup's: it may not have caught up yet.
    tokens = [task.token for task in new.claimed(2)]

    assert min(tokens) > granted.token


@pytest.mark.parametrize("skew_ms", [0, 50_000])
def test_a_restore_in_the_very_second_of_a_grant_grants_a_higher_token(skew_ms: int) -> None:
    """Also by clocks that are behind those of the old cluster."""
    old, new = LoneQueue(), LoneQueue()
    for queue in (old, new):
        form(queue, START_MS, "c-1")
        queue.submitted(spec(), spec())
        queue.claimed()
    restored(new, made_at_ms=START_MS)

    [granted] = old.claimed()
    form(new, START_MS - skew_ms)
    tokens = [task.token for task in new.claimed(2)]

    assert min(tokens) > granted.token


def test_an_uncertain_task_is_a_dead_letter_that_is_kept_and_can_be_redriven() -> None:
    queue = LoneQueue()
    form(queue, START_MS, "c-1")
    no_retention = spec()
    no_retention.retention.FromSeconds(0)
    [task_id, waiting] = queue.submitted(no_retention, spec())
    [held] = queue.claimed()

    queue.decide(EndLeases(quarantine=True))

    task = queue.task(task_id)
    assert queue.state(task_id) == "FAILED"
    assert task.failure_reason == task_pb2.FAILURE_REASON_UNCERTAIN
    assert [attempt.end for attempt in task.attempts] == [task_pb2.Attempt.END_UNCERTAIN]
    assert queue.state(waiting) == "PENDING"
    queue.remove_retired()
    assert queue.exists(task_id)
    assert status(queue.complete(held)) == "LEASE_LOST"
    queue.redrive(task_id)
    assert queue.state(task_id) == "PENDING"


@pytest.mark.parametrize(("days", "kept_days"), [(0, 14), (None, 14), (30, 30)])
def test_an_uncertain_task_is_kept_for_two_weeks_or_as_long_as_its_caller_wants(
    days: int | None, kept_days: int
) -> None:
    queue = LoneQueue()
    form(queue, START_MS, "c-1")
    task = spec()
    if days is not None:
        task.retention.FromSeconds(days * 86_400)
    [task_id] = queue.submitted(task)
    queue.claimed()
    queue.decide(EndLeases(quarantine=True))

    queue.now_ms += kept_days * DAY_MS - 1
    queue.remove_retired()
    assert queue.exists(task_id)
    queue.now_ms += 1
    queue.remove_retired()
    assert not queue.exists(task_id)
