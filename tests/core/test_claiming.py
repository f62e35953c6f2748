"""Which tasks a claim gets, and in which order."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, replied, report_of, span, spec
from tests.core.reads import counted_reads
from tq.internal.v1 import log_pb2
from tq.v1 import queue_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import Claim, ConfigureQueue, Outcome, Ready, Refused, Submit
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.core.rows import tables

Settings = queue_service_pb2.QueueSettings
Response = worker_service_pb2.ClaimResponse


def test_a_claim_hands_out_what_the_worker_needs_to_run_the_task() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", payload=b"x", timeout=span(5_000)))
    queue.now_ms += 250

    reply = replied(queue.claim(lease_ms=7_000), Response)

    (claimed,) = reply.tasks
    assert claimed.spec == spec(task_id="one", payload=b"x", timeout=span(5_000))
    assert claimed.attempt == 1
    assert claimed.lease == span(7_000)
    assert claimed.submitted_at == at(0)
    assert 0 < claimed.token < 1 << 53
    assert queue.state("one") == "RUNNING"


def test_a_lease_is_30_s_long_unless_asked_otherwise() -> None:
    queue = LoneQueue()
    queue.submitted(spec())

    assert queue.claimed()[0].lease == span(30_000)


def test_tasks_of_one_priority_leave_first_in_first_out() -> None:
    queue = LoneQueue()
    first = queue.submitted(*[spec() for _ in range(3)])
    queue.now_ms += 1
    second = queue.submitted(*[spec() for _ in range(3)])

    assert queue.claimed_ids(4) + queue.claimed_ids(4) == first + second


def test_the_higher_priority_leaves_first_whatever_waited_longer() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="old", priority=0))
    queue.now_ms += 10_000_000
    queue.submitted(spec(task_id="new", priority=1), spec(task_id="urgent", priority=255))

    assert queue.claimed_ids(3) == ["urgent", "new", "old"]


def test_with_aging_a_step_of_priority_is_worth_its_wait() -> None:
    queue = LoneQueue()
    queue.configure(ordering=Settings.ORDERING_AGING, aging=span(1_000))
    queue.submitted(spec(task_id="old", priority=0))
    queue.now_ms += 1_999
    queue.submitted(spec(task_id="two-steps", priority=2), spec(task_id="one-step", priority=1))
    queue.now_ms += 10

    # "two-steps" is worth 2,000 ms and came 1,999 ms later; "one-step" is worth too little.
    assert queue.claimed_ids(3) == ["two-steps", "old", "one-step"]


def test_with_aging_tasks_of_one_priority_still_leave_first_in_first_out() -> None:
    queue = LoneQueue()
    queue.configure(ordering=Settings.ORDERING_AGING, aging=span(1))
    ids = {0: list[str](), 9: list[str]()}
    for _ in range(5):
        for priority, submitted in ids.items():
            submitted.extend(queue.submitted(spec(priority=priority), spec(priority=priority)))
        queue.now_ms += 1

    claimed = [task for _ in range(4) for task in queue.claimed(5)]

    for priority, submitted in ids.items():
        assert [t.spec.task_id for t in claimed if t.spec.priority == priority] == submitted


def test_another_ordering_holds_at_once_for_every_task_that_waits() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="old", priority=0))
    queue.now_ms += 5_000
    queue.submitted(spec(task_id="new", priority=1))
    queue.configure(ordering=Settings.ORDERING_AGING, aging=span(1_000))

    assert queue.claimed_ids() == ["old"]

    queue.submitted(spec(task_id="newest", priority=200))
    queue.configure(ordering=Settings.ORDERING_STRICT)

    assert queue.claimed_ids(2) == ["newest", "new"]


def test_a_claim_on_several_queues_gets_the_most_urgent_of_any() -> None:
    queue = LoneQueue()
    queue.submitted(spec(queue="a", task_id="a-low"))
    queue.now_ms += 1
    queue.submitted(spec(queue="b", task_id="b-low"), spec(queue="b", task_id="b-high", priority=3))
    queue.now_ms += 1
    queue.submitted(spec(queue="a", task_id="a-high", priority=3))

    assert queue.claimed_ids(3, queues=["a", "b", "a", "missing"]) == ["b-high", "a-high", "a-low"]


def test_a_queue_named_twice_in_a_claim_hands_out_each_task_once() -> None:
    queue = LoneQueue()
    ids = queue.submitted(spec(), spec())

    assert queue.claimed_ids(10, queues=["default", "default"]) == ids


def test_a_claim_where_nothing_is_ready_changes_nothing() -> None:
    queue = LoneQueue()
    queue.submitted(spec(run_at=at(1_000)))
    entries = len(queue.entries)

    assert queue.claimed(10) == []
    assert queue.claimed(10, queues=["nobody-named-it"]) == []
    assert len(queue.entries) == entries


def test_a_paused_queue_hands_nothing_out_and_takes_everything_else() -> None:
    queue = LoneQueue()
    running = queue.submitted(spec())[0]
    (held,) = queue.claimed()
    queue.configure(paused=True)
    (waiting,) = queue.submitted(spec())

    assert queue.claimed(10) == []
    queue.complete(held)
    assert queue.state(running) == "COMPLETED"

    queue.configure(paused=False)
    assert queue.claimed_ids(10) == [waiting]


def test_resuming_a_queue_wakes_those_who_wait_for_its_tasks() -> None:
    queue = LoneQueue()
    queue.configure(paused=True)
    queue.submitted(spec())
    request = queue_service_pb2.ConfigureQueueRequest(queue="default", settings=Settings())

    ready = queue.decide(ConfigureQueue(request=request)).wakeups.ready
    assert ready == [Ready(DEFAULT_NAMESPACE, "default", {type_digest("work"): 1}, 1)]


def test_tasks_submitted_in_a_batch_can_be_claimed_in_the_same() -> None:
    queue = LoneQueue()
    submit = Submit(request=task_service_pb2.SubmitRequest(tasks=[spec(task_id="one")]), id_seed="")
    claim = Claim(
        request=worker_service_pb2.ClaimRequest(worker_id="w", queues=["default"], max_tasks=1)
    )

    decision = queue.decide(claim, submit)

    (claimed,) = replied(decision.outcomes[0], Response).tasks
    assert claimed.spec.task_id == "one"


def test_a_reply_stays_below_its_limit_unless_one_task_alone_is_above() -> None:
    queue = LoneQueue(limits=Limits(reply_bytes_max=10_000))
    queue.submitted(spec(task_id="huge", payload=bytes(20_000)))
    queue.submitted(*[spec(payload=bytes(3_000)) for _ in range(5)])

    assert queue.claimed_ids(10) == ["huge"]
    assert len(queue.claimed(10)) == 3
    assert len(queue.claimed(10)) == 2


def test_tokens_rise_from_claim_to_claim_and_start_at_the_clock() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec() for _ in range(5)])

    tokens = [task.token for _ in range(3) for task in queue.claimed(2)]

    assert tokens == sorted(set(tokens))
    assert tokens[0] >= queue.now_ms // 1000 << 20


def test_a_state_restored_from_an_old_backup_grants_no_token_again() -> None:
    queue = LoneQueue()
    backup = LoneQueue()
    for each in (queue, backup):
        each.submitted(*[spec() for _ in range(3)])
    newest = queue.claimed(3)[-1].token  # the backup knows nothing of these

    backup.now_ms += 1_000

    assert backup.claimed()[0].token > newest


@pytest.mark.parametrize("ordering", [Settings.ORDERING_STRICT, Settings.ORDERING_AGING])
def test_a_claim_reads_as_little_from_a_deep_queue_as_from_a_shallow_one(
    ordering: Settings.Ordering.ValueType,
) -> None:
    def rows_read(depth: int) -> int:
        queue = LoneQueue(audited=False)
        queue.configure(ordering=ordering)
        for _ in range(depth // 500):
            queue.submitted(*[spec(priority=n % 3) for n in range(500)])
        with counted_reads() as reads:
            assert len(queue.claimed(10)) == 10
        return reads.count

    assert rows_read(500) == rows_read(5_000) < 50


def test_a_queue_without_fairness_keys_pays_for_lanes_only_when_it_fills_or_runs_empty() -> None:
    queue = LoneQueue()

    def lane_rows_written() -> int:
        entry = log_pb2.Entry.FromString(queue.entries[-1])
        columns = [table for table in entry.tables if table.table == tables.LANES]
        return sum(len(each.put_keys) + len(each.deleted_keys) for each in columns)

    written = []
    for _ in range(3):
        queue.submitted(spec(), spec())
        written.append(lane_rows_written())
    for _ in range(3):
        queue.claimed(2)
        written.append(lane_rows_written())

    assert written == [1, 0, 0, 0, 0, 1]


def ids_of(outcome: Outcome) -> list[str]:
    return [each.spec.task_id for each in replied(outcome, Response).tasks]


def test_a_claim_can_leave_out_types_and_can_name_the_only_ones_it_wants() -> None:
    queue = LoneQueue()
    for task_id, task_type in [("x1", "x"), ("y1", "y"), ("x2", "x"), ("z1", "z"), ("y2", "y")]:
        queue.submitted(spec(task_id=task_id, type=task_type))

    assert ids_of(queue.claim(2, except_types=["x"])) == ["y1", "z1"]
    assert ids_of(queue.claim(2, types=["x", "y"], except_types=["y"])) == ["x1", "x2"]
    assert ids_of(queue.claim(2, types=["z"])) == []
    assert ids_of(queue.claim(2)) == ["y2"]


def test_with_aging_a_claim_of_one_type_still_gets_the_most_urgent_of_it() -> None:
    queue = LoneQueue()
    queue.configure(ordering=Settings.ORDERING_AGING, aging=span(1_000))
    queue.submitted(spec(task_id="old", type="x"), spec(task_id="high", type="x", priority=1))
    queue.submitted(spec(task_id="other", priority=9))

    assert ids_of(queue.claim(2, types=["x"])) == ["high", "old"]


def test_a_task_keeps_its_type_for_claims_through_release_and_retry() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="x1", type="x"))
    (claimed,) = queue.claimed()
    queue.report(report_of(claimed, release=worker_service_pb2.Release()))
    assert ids_of(queue.claim(except_types=["x"])) == []

    (claimed,) = queue.claimed()
    failure = worker_service_pb2.Failure(error="once more", retry_after=span(0))
    queue.report(report_of(claimed, fail=failure))
    queue.make_due()

    assert ids_of(queue.claim(except_types=["x"])) == []
    assert ids_of(queue.claim(types=["x"])) == ["x1"]


def test_tasks_that_an_earlier_version_made_ready_are_told_apart_by_their_specs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = LoneQueue(by_type=False)
    with monkeypatch.context() as patch:
        patch.setattr("tq_cluster.core.calls.submit.type_digest", lambda _: 0)
        queue.submitted(spec(task_id="x1", type="x"), spec(task_id="y1", type="y"))
    assert ids_of(queue.claim(2, types=["y"])) == ["y1"]


@pytest.mark.parametrize("field", ["types", "except_types"])
def test_a_claim_that_names_too_many_types_is_refused(field: str) -> None:
    queue = LoneQueue()

    outcome = queue.claim(**{field: ["x"] * 65})  # type: ignore[arg-type]  # a field of two

    assert isinstance(outcome, Refused)
    assert outcome.message == f"{field} has 65 types; at most 64 are taken"
