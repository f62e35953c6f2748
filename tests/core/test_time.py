"""What time alone does: run_at, expire_at, retention, and log time itself."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.core.lone_queue import LoneQueue, at, span, spec
from tests.scopes import scope_of
from tq.internal.v1 import log_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel.removal import ROWS_A_TASK_MIN
from tq_cluster.core.model.limits import DAY_MS, MINUTE_MS
from tq_cluster.core.model.operations import (
    Done,
    ExpireLeases,
    ForgetRequests,
    MakeDue,
    Outcome,
    RemoveRetired,
)
from tq_cluster.core.reads import queries


def test_a_scheduled_task_is_handed_out_at_its_time_and_not_before() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="later", run_at=at(5_000)))

    assert queue.state("later") == "SCHEDULED"
    queue.wait(4_999)
    assert not queue.changed_by(MakeDue())
    assert queue.claimed_ids() == []
    queue.wait(1)
    assert queue.state("later") == "PENDING"
    assert queue.claimed_ids() == ["later"]


def test_a_run_at_between_two_milliseconds_waits_for_the_later() -> None:
    queue = LoneQueue()
    run_at = at(10)
    run_at.nanos += 1

    queue.submitted(spec(task_id="later", run_at=run_at))

    assert queue.task("later").due_at == at(11)


def test_a_run_at_in_the_past_means_now() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="first"))
    queue.now_ms += 1
    queue.submitted(spec(task_id="second", run_at=Timestamp(seconds=5)))

    assert queue.state("second") == "PENDING"
    assert queue.claimed_ids(2) == ["first", "second"]


def test_a_task_that_came_due_earlier_leaves_before_one_submitted_later() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="scheduled", run_at=at(100)))
    queue.now_ms += 200  # the leader was held up and has not looked yet
    queue.submitted(spec(task_id="fresh"))
    queue.make_due()

    assert queue.claimed_ids(2) == ["scheduled", "fresh"]


def test_what_is_due_is_done_in_slices() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(run_at=at(100)) for _ in range(5)])
    queue.submitted(*[spec(run_at=at(100), expire_at=at(100)) for _ in range(2)])
    queue.now_ms += 100

    outcomes = [queue.outcome(MakeDue(tasks_max=3)) for _ in range(3)]

    assert outcomes == [Done(more=True), Done(more=True), Done(more=False)]
    assert (queue.stats().pending, queue.stats().failed) == (5, 2)


def test_the_leader_learns_when_something_is_next_due() -> None:
    queue = LoneQueue()
    assert queries.next_due_ms(scope_of(queue.store.view())) is None

    queue.submitted(spec(run_at=at(500)), spec(expire_at=at(300)))

    assert queries.next_due_ms(scope_of(queue.store.view())) == queue.now_ms + 300
    queue.wait(300)
    assert queries.next_due_ms(scope_of(queue.store.view())) == queue.now_ms + 200
    queue.wait(200)
    assert queries.next_due_ms(scope_of(queue.store.view())) is None


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING", "RETRYING"])
def test_a_task_not_worth_starting_any_more_expires_wherever_it_waits(state: str) -> None:
    queue = LoneQueue()
    run_at = at(5_000) if state == "SCHEDULED" else None
    queue.submitted(spec(task_id="one", run_at=run_at, expire_at=at(1_000)))
    if state == "RETRYING":
        queue.fail(queue.claimed()[0], retry_after_ms=5_000)
    assert queue.state("one") == state

    queue.wait(999)
    assert not queue.changed_by(MakeDue())
    assert queue.state("one") == state
    queue.wait(1)

    assert queue.state("one") == "FAILED"
    assert queue.task("one").failure_reason == task_pb2.FAILURE_REASON_EXPIRED


def test_a_task_that_runs_when_its_expire_at_passes_is_left_to_finish() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", expire_at=at(1_000)))
    (claimed,) = queue.claimed()
    queue.wait(5_000)

    queue.complete(claimed)

    assert queue.state("one") == "COMPLETED"


def test_a_task_given_back_after_its_expire_at_is_not_handed_out_again() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", expire_at=at(1_000)))
    (claimed,) = queue.claimed()
    queue.wait(5_000)
    queue.release(claimed)

    # The leader has not come round to what is due, and the claim is here first.
    assert queue.claimed() == []
    assert queue.state("one") == "FAILED"


def test_a_claim_passes_over_what_has_expired() -> None:
    queue = LoneQueue()
    queue.submitted(spec(expire_at=at(10)), spec(expire_at=at(10)), spec(task_id="good"))
    queue.now_ms += 10

    assert queue.claimed_ids(2) == ["good"]
    assert queue.stats().failed == 2


def test_a_finished_task_is_removed_with_everything_about_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", payload=bytes(200_000), retention=span(60_000)))
    (claimed,) = queue.claimed()
    queue.fail(claimed, retry_after_ms=0)
    queue.wait(0)
    queue.complete(queue.claimed()[0], bytes(200_000))

    queue.now_ms += 59_999
    assert not queue.changed_by(RemoveRetired())
    assert queue.exists("one")
    queue.now_ms += 1
    queue.remove_retired()

    assert not queue.exists("one")
    assert queue.stats().completed == 0
    assert queue.submitted(spec(task_id="one")) == ["one"], "its id is free again"


@pytest.mark.parametrize(
    ("end", "kept_ms"),
    [("COMPLETED", DAY_MS), ("CANCELLED", DAY_MS), ("FAILED", 14 * DAY_MS)],
)
def test_without_a_retention_of_its_own_a_task_is_kept_by_how_it_ended(
    end: str, kept_ms: int
) -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    if end == "CANCELLED":
        queue.cancel("one")
    elif end == "FAILED":
        queue.fail(queue.claimed()[0], permanent=True)
    else:
        queue.complete(queue.claimed()[0])
    assert queue.state("one") == end

    assert queries.next_retired_ms(scope_of(queue.store.view())) == queue.now_ms + kept_ms
    queue.now_ms += kept_ms
    queue.remove_retired()

    assert not queue.exists("one")


def test_a_redriven_task_is_not_removed_when_its_first_end_would_have_retired_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", retention=span(1_000)))
    queue.fail(queue.claimed()[0], permanent=True)
    queue.redrive("one")

    queue.now_ms += 5_000
    queue.remove_retired()

    assert queue.state("one") == "PENDING"


def test_removing_takes_slices_and_says_when_there_is_more() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(retention=span(0)) for _ in range(10)])
    for task in queue.claimed(10):
        queue.complete(task)

    outcomes = [queue.outcome(RemoveRetired(rows_max=20))]
    while outcomes[-1] == Done(more=True):
        outcomes.append(queue.outcome(RemoveRetired(rows_max=20)))

    assert 2 < len(outcomes) < 6
    assert queue.stats().completed == 0


@pytest.mark.parametrize("permanent", [None, True], ids=["completed", "dead letters"])
def test_a_removal_counts_each_row_that_it_removes(permanent: bool | None) -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(retention=span(0)) for _ in range(10)])
    for task in queue.claimed(10):
        if permanent is None:
            queue.complete(task, result=b"done")
        else:
            queue.fail(task, permanent=permanent)

    def removed(rows_max: int) -> int:
        queue.decide(RemoveRetired(rows_max=rows_max))
        tables = log_pb2.Entry.FromString(queue.entries[-1]).tables
        return sum(len(table.deleted_keys) for table in tables)

    rows_a_task = removed(rows_max=1)

    assert rows_a_task > ROWS_A_TASK_MIN
    assert removed(rows_max=3 * rows_a_task) == 3 * rows_a_task
    assert removed(rows_max=3 * rows_a_task + 1) == 4 * rows_a_task


def test_a_task_that_cannot_be_removed_keeps_no_other() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"t{n}", retention=span(0)) for n in range(3)])
    for task in queue.claimed(3):
        queue.complete(task)
    first = queries.first_retired(scope_of(queue.store.view()), queue.now_ms)
    assert first is not None

    outcome = queue.outcome(RemoveRetired(rows_max=5, passed_over=frozenset({first})))

    assert outcome == Done(more=True)
    assert [queue.exists(f"t{n}") for n in range(3)] == [True, False, True]
    others = queries.first_retired(scope_of(queue.store.view()), queue.now_ms, {first})
    assert others == first + 2


def test_a_task_whose_time_has_come_and_cannot_be_moved_delays_no_other() -> None:
    queue = LoneQueue()
    queue.submitted(
        spec(task_id="expires", expire_at=at(100)),
        spec(task_id="spoilt", run_at=at(100)),
        spec(task_id="due", run_at=at(100)),
    )
    queue.now_ms += 100
    view = queue.store.view()
    expires = queries.first_due(scope_of(view), queue.now_ms)
    assert expires is not None
    spoilt = queries.first_due(scope_of(view), queue.now_ms, {expires})
    assert spoilt is not None

    outcome = queue.outcome(MakeDue(passed_over=frozenset({spoilt})))

    assert outcome == Done(more=False)
    states = [queue.state(task_id) for task_id in ("expires", "spoilt", "due")]
    assert states == ["FAILED", "SCHEDULED", "PENDING"]


def test_housekeeping_says_how_much_it_did() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(run_at=at(100), retention=span(0)) for _ in range(5)], request_id="r")
    queue.now_ms += 100

    assert items(queue.outcome(MakeDue())) == 5
    for task in queue.claimed(3):
        queue.complete(task)
    queue.claimed(1)
    leases = list(queue.leases.values())
    assert items(queue.outcome(ExpireLeases(leases=leases))) == 1
    assert items(queue.outcome(ExpireLeases(leases=leases))) == 0
    assert items(queue.outcome(RemoveRetired())) == 3
    queue.now_ms += 20 * MINUTE_MS
    assert items(queue.outcome(ForgetRequests())) == 1


def items(outcome: Outcome) -> int:
    assert isinstance(outcome, Done)
    return outcome.items


def test_log_time_is_stamped_by_every_change_and_by_nothing_else() -> None:
    queue = LoneQueue()
    assert queries.log_time(queue.store.view()) == 0
    queue.submitted(spec())
    first = queue.now_ms
    queue.now_ms += 50

    queue.claim(queues=["nobody-named-it"])
    assert queries.log_time(queue.store.view()) == first
    queue.claim()
    assert queries.log_time(queue.store.view()) == first + 50


def test_a_batch_decided_before_the_last_one_is_a_fault() -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    queue.now_ms -= 1

    with pytest.raises(AssertionError, match="log time went back"):
        queue.submit(spec())
