"""Leases: who holds a task, and what becomes of it when they fall silent."""

from __future__ import annotations

from tests.core.lone_queue import LoneQueue, report_of, spec, status
from tests.scopes import scope_of
from tq.v1 import task_pb2, worker_service_pb2
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.model.operations import ExpireLeases, Lease, Ready, Replied, Report
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, FencingToken
from tq_cluster.core.reads import queries

Attempt = task_pb2.Attempt


def test_a_task_whose_worker_fell_silent_is_tried_again() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed(worker="silent")

    queue.expire(claimed)

    task = queue.task("one")
    assert queue.state("one") == "RETRYING"
    assert task.attempts_made == 1
    assert (task.attempts[0].end, task.attempts[0].worker_id) == (
        Attempt.END_LEASE_EXPIRED,
        "silent",
    )
    assert queue.leases == {}


def test_a_task_that_silences_every_worker_is_given_up_after_max_attempts() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="poison", max_attempts=3))

    for _ in range(3):
        queue.wait(3_600_000)
        queue.expire(queue.claimed()[0])

    assert queue.state("poison") == "FAILED"
    assert queue.task("poison").failure_reason == task_pb2.FAILURE_REASON_ATTEMPTS_EXHAUSTED


def test_an_expiry_that_comes_after_the_report_changes_nothing() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    lease = queue.leases[FencingToken(claimed.token)]
    queue.complete(claimed)

    assert not queue.changed_by(ExpireLeases(leases=[lease]))
    assert queue.state("one") == "COMPLETED"


def test_an_expiry_of_a_lease_that_is_not_the_newest_changes_nothing() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (first,) = queue.claimed()
    old = queue.leases[FencingToken(first.token)]
    queue.release(first)
    queue.claimed()

    assert not queue.changed_by(ExpireLeases(leases=[old]))
    assert queue.state("one") == "RUNNING"


def test_a_report_and_the_expiry_in_one_batch_the_report_counts() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    lease = queue.leases[FencingToken(claimed.token)]
    report = report_of(claimed, complete=worker_service_pb2.Completion())

    decision = queue.decide(
        ExpireLeases(leases=[lease]),
        Report(request=worker_service_pb2.ReportRequest(reports=[report])),
    )

    outcome = decision.outcomes[1]
    assert isinstance(outcome, Replied)
    assert isinstance(outcome.reply, worker_service_pb2.ReportResponse)
    assert status(outcome.reply.results[0]) == "RECORDED"
    assert queue.state("one") == "COMPLETED"


def test_a_heartbeat_renews_what_is_live_and_says_what_is_lost() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec() for _ in range(4)])
    live, done, lost, marked = queue.claimed(4)
    queue.complete(done)
    queue.expire(lost)
    queue.cancel(marked.spec.task_id)

    statuses, renewed = queue.heartbeat(live, done, lost, marked)

    assert statuses == ["RENEWED", "LEASE_LOST", "LEASE_LOST", "CANCEL_REQUESTED"]
    assert renewed == [live.token, marked.token]


def test_a_heartbeat_does_not_renew_the_lease_of_the_next_holder() -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    (stale,) = queue.claimed(worker="slow")
    queue.expire(stale)
    queue.wait(5_000)
    (fresh,) = queue.claimed(worker="fast")

    assert queue.heartbeat(stale) == (["LEASE_LOST"], [])
    assert queue.heartbeat(fresh) == (["RENEWED"], [fresh.token])


def test_a_heartbeat_tells_the_length_the_lease_was_granted_for() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    queue.claim(lease_ms=12_345)
    (lease,) = queue.leases.values()
    held = worker_service_pb2.HeldLease(task_id="one", token=lease.token)

    outcome, _ = queries.heartbeat(
        scope_of(queue.store.view()),
        worker_service_pb2.HeartbeatRequest(leases=[held]),
    )

    assert isinstance(outcome, Replied)
    assert isinstance(outcome.reply, worker_service_pb2.HeartbeatResponse)
    assert outcome.reply.results[0].lease.ToMilliseconds() == 12_345


def test_a_heartbeat_of_more_than_10000_leases_is_refused() -> None:
    queue = LoneQueue()
    held = [worker_service_pb2.HeldLease(task_id="x", token=1)] * 10_001
    request = worker_service_pb2.HeartbeatRequest(leases=held)

    outcome, live = queries.heartbeat(scope_of(queue.store.view()), request)

    assert not isinstance(outcome, Replied)
    assert live == []


def test_a_new_leader_finds_every_running_lease_in_slices() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(queue=f"q{n % 3}") for n in range(20)])
    claimed = queue.claimed(17, queues=["q0", "q1", "q2"])
    queue.complete(claimed[0])

    found: list[Lease] = []
    after: bytes | None = b""
    while after is not None:
        leases, after = queries.running_leases(scope_of(queue.store.view()), after, 5)
        assert len(leases) <= 5
        found.extend(leases)

    assert {lease.token: lease for lease in found} == queue.leases
    assert len(found) == 16


def test_a_grant_and_an_end_are_told_to_the_leaders_memory() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))

    (claimed,) = queue.claimed()

    (lease,) = queue.leases.values()
    assert (lease.token, lease.task_id, lease.length_ms) == (claimed.token, "one", 30_000)
    report = report_of(claimed, release=worker_service_pb2.Release())
    wakeups = queue.decide(
        Report(request=worker_service_pb2.ReportRequest(reports=[report]))
    ).wakeups
    assert wakeups.ended == [claimed.token]
    assert wakeups.ready == [Ready(DEFAULT_NAMESPACE, "default", {type_digest("work"): 1}, 1)]
    assert wakeups.finished == set()
