"""The request-id window: a retried call is answered again, never repeated."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.core.lone_queue import LoneQueue, at, reason, replied, span, spec
from tests.scopes import scope_of
from tq.v1 import (
    errors_pb2,
    queue_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_cluster.core.model.limits import DAY_MS, Limits
from tq_cluster.core.model.operations import (
    Caller,
    Claim,
    ForgetRequests,
    Outcome,
    Refused,
    RemoveRetired,
    Submit,
)
from tq_cluster.core.model.types import FencingToken, Principal
from tq_cluster.core.reads import queries

SubmitResponse = task_service_pb2.SubmitResponse
ClaimResponse = worker_service_pb2.ClaimResponse
RedriveResponse = queue_service_pb2.RedriveResponse
MINUTE_MS = 60_000


def test_a_repeated_submit_creates_its_tasks_once_and_returns_the_same_answer() -> None:
    queue = LoneQueue()
    far_ahead = at(366 * DAY_MS + 1)  # a few minutes later it no longer is
    tasks = [spec(), spec(task_id="named"), spec(task_id="named"), spec(run_at=far_ahead)]
    first = replied(queue.submit(*tasks, request_id="r"), SubmitResponse)
    entries = len(queue.entries)
    queue.now_ms += 5 * MINUTE_MS

    repeated = replied(queue.submit(*tasks, request_id="r", retry_age_ms=900), SubmitResponse)

    assert repeated == first
    reasons = [result.error.reason for result in repeated.results]
    assert reasons[2:] == [
        errors_pb2.ERROR_REASON_TASK_EXISTS,
        errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
    ]
    assert (queue.stats().pending, len(queue.entries)) == (2, entries)


def test_a_repeated_submit_tells_where_its_tasks_stand_by_now() -> None:
    queue = LoneQueue()
    tasks = [spec(), spec(retention=span(0))]
    queue.submit(*tasks, request_id="r")
    _, second = queue.claimed(2)
    queue.complete(second)
    queue.remove_retired()

    repeated = replied(queue.submit(*tasks, request_id="r"), SubmitResponse)

    assert repeated.results[0].task.state == task_pb2.TASK_STATE_RUNNING
    assert repeated.results[1].task.task_id == "r-1"
    assert repeated.results[1].task.state == task_pb2.TASK_STATE_UNSPECIFIED, "it is gone"


@pytest.mark.parametrize("minutes", [0, 1, 5, 9, 10])
def test_a_repetition_is_recognised_within_the_window(minutes: int) -> None:
    queue = LoneQueue()
    for start in range(8):  # wherever in a bucket of the memory the first call falls
        queue.now_ms += start * 47_000
        ids = queue.submitted(spec(), request_id=f"r{start}")
        queue.now_ms += minutes * MINUTE_MS
        queue.remove_retired()
        queue.forget_requests()
        assert queue.submitted(spec(), request_id=f"r{start}") == ids


def test_a_retry_older_than_the_window_is_refused_not_repeated() -> None:
    queue = LoneQueue()

    outcome = queue.submit(spec(), request_id="r", retry_age_ms=570_001)

    assert reason(outcome) == "REQUEST_ID_EXPIRED"
    assert len(queue.entries) == 0
    queue.submitted(spec(), request_id="other")
    in_time = queue.submit(spec(), request_id="r", retry_age_ms=570_000)
    assert replied(in_time, SubmitResponse).results[0].HasField("task")


def test_request_ids_are_forgotten_after_their_window_and_no_sooner() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"), request_id="r")
    expected_ms = queries.next_forgotten_ms(scope_of(queue.store.view()))
    assert expected_ms is not None
    assert expected_ms >= queue.now_ms + 12 * MINUTE_MS, "log time may run a tenth fast"

    queue.now_ms = expected_ms - 1
    queue.forget_requests()
    assert queue.submitted(spec(task_id="one"), request_id="r") == ["one"]
    queue.now_ms = expected_ms
    queue.forget_requests()

    reply = replied(queue.submit(spec(task_id="one"), request_id="r"), SubmitResponse)
    assert reply.results[0].error.reason == errors_pb2.ERROR_REASON_TASK_EXISTS


@pytest.mark.parametrize("step_min", [2, 20, 60 * 24 * 365])
def test_request_ids_do_not_age_by_a_step_of_log_time(step_min: int) -> None:
    """A majority of clocks that were behind together are put right under a retry."""
    queue = LoneQueue()
    ids = queue.submitted(spec(), request_id="r")
    queue.now_ms += step_min * MINUTE_MS + 9 * MINUTE_MS
    queue.stepped_ms += step_min * MINUTE_MS
    queue.forget_requests()

    assert queue.submitted(spec(), request_id="r") == ids

    queue.submitted(spec(), request_id="another")
    queue.stepped_ms = 0  # the next leader knows it from the state
    assert queue.submitted(spec(), request_id="r") == ids

    queue.stepped_ms = queries.stepped_ms(queue.store.view())
    queue.now_ms += 10 * MINUTE_MS
    queue.forget_requests()
    assert reason_of_first(queue.submit(spec(), request_id="r")) == "TASK_EXISTS"


def reason_of_first(outcome: Outcome) -> str:
    reply = replied(outcome, SubmitResponse)
    return errors_pb2.ErrorReason.Name(reply.results[0].error.reason).removeprefix("ERROR_REASON_")


def test_a_request_id_with_another_body_or_for_another_call_is_refused() -> None:
    queue = LoneQueue()
    queue.submitted(spec(payload=b"a"), request_id="r")

    for outcome in (
        queue.submit(spec(payload=b"b"), request_id="r"),
        queue.claim(request_id="r"),
        queue.cancel("r-0", request_id="r"),
        queue.redrive("r-0", request_id="r"),
    ):
        assert reason(outcome) == "REQUEST_ID_REUSED"
    assert queue.stats().pending == 1


def test_labels_in_another_order_are_the_same_body() -> None:
    queue = LoneQueue()
    keys = [f"k{n}" for n in range(20)]
    ids = queue.submitted(spec(labels=dict.fromkeys(keys, "v")), request_id="r")

    labels = dict.fromkeys(reversed(keys), "v")

    assert queue.submitted(spec(labels=labels), request_id="r") == ids


def test_two_callers_may_use_the_same_request_id() -> None:
    queue = LoneQueue()
    for name in ("alice", "bob"):
        caller = Caller(principal=Principal(name), namespace=0)
        reply = replied(
            queue.submit(spec(task_id=name), request_id="r", caller=caller), SubmitResponse
        )
        assert reply.results[0].HasField("task")


def test_a_call_without_a_request_id_is_decided_anew() -> None:
    queue = LoneQueue()

    assert queue.submitted(spec()) != queue.submitted(spec())


def test_an_answer_that_changed_nothing_is_not_remembered() -> None:
    queue = LoneQueue()
    assert replied(queue.claim(request_id="c"), ClaimResponse) == ClaimResponse()
    queue.submitted(spec(task_id="one"))

    reply = replied(queue.claim(request_id="c"), ClaimResponse)

    assert [task.spec.task_id for task in reply.tasks] == ["one"]


def test_a_repeated_claim_gets_its_tasks_again_and_renews_them() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(payload=b"p") for _ in range(3)])
    first = replied(queue.claim(2, request_id="c"), ClaimResponse)
    entries = len(queue.entries)
    granted = dict(queue.leases)
    queue.leases.clear()

    repeated = replied(queue.claim(2, request_id="c", retry_age_ms=5_000), ClaimResponse)

    assert repeated == first
    assert queue.leases == granted, "the leader is told to renew them"
    assert len(queue.entries) == entries


def test_a_claim_repeated_with_less_time_to_wait_is_the_same_claim() -> None:
    queue = LoneQueue()
    queue.submitted(spec())

    def claim(wait_ms: int) -> ClaimResponse:
        request = worker_service_pb2.ClaimRequest(
            worker_id="w", queues=["default"], max_tasks=1, request_id="c", wait=span(wait_ms)
        )
        return replied(queue.outcome(Claim(request=request)), ClaimResponse)

    assert claim(10_000).tasks[0].token == claim(4_000).tasks[0].token


def test_a_repeated_claim_names_the_tasks_that_are_no_longer_the_workers() -> None:
    queue = LoneQueue()
    ids = queue.submitted(*[spec() for _ in range(4)])
    first = replied(queue.claim(4, request_id="c"), ClaimResponse)
    queue.complete(first.tasks[1])
    queue.expire(first.tasks[2])
    queue.release(first.tasks[3])
    (taken,) = queue.claimed()
    assert taken.spec.task_id == ids[3]

    repeated = replied(queue.claim(4, request_id="c"), ClaimResponse)

    assert [task.spec.task_id for task in repeated.tasks] == ids[:1]
    assert list(repeated.lost_task_ids) == ids[1:]


def test_a_repeated_cancel_returns_the_first_ones_answer() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    first = queue.cancel("one", request_id="r")
    entries = len(queue.entries)
    queue.now_ms += 10

    assert queue.cancel("one", request_id="r") == first
    assert len(queue.entries) == entries


def test_a_repeated_redrive_redrives_once() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(max_attempts=1) for _ in range(5)])
    for task in queue.claimed(5):
        queue.fail(task)

    first = queue.redrive(queue="default", max_tasks=2, request_id="r")
    again = queue.redrive(queue="default", max_tasks=2, request_id="r")

    assert first == again
    assert replied(first, RedriveResponse).redriven == 2
    assert queue.stats().failed == 3


def test_a_repeated_redrive_of_named_tasks_skips_the_same_ones() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="dead", max_attempts=1), spec(task_id="alive"))
    queue.fail(queue.claimed()[0])

    first = queue.redrive("dead", "alive", request_id="r")

    assert queue.redrive("dead", "alive", request_id="r") == first
    assert list(replied(first, RedriveResponse).skipped_task_ids) == ["alive"]


@pytest.mark.parametrize("limits", [Limits(requests_max=2), Limits(request_bytes_max=100)])
def test_where_no_more_ids_can_be_remembered_new_calls_are_refused_and_none_is_forgotten(
    limits: Limits,
) -> None:
    queue = LoneQueue(limits=limits)
    ids = queue.submitted(spec(), request_id="r1")
    queue.submitted(spec(), request_id="r2")

    refused = queue.submit(spec(), request_id="r3")

    assert reason(refused) == "REQUEST_IDS_EXHAUSTED"
    assert isinstance(refused, Refused)
    assert refused.retry_after_ms is not None
    assert queue.submitted(spec(), request_id="r1") == ids
    assert queue.submitted(spec()), "a call that asks for nothing to be remembered is taken"
    queue.now_ms += 20 * MINUTE_MS
    queue.forget_requests()
    assert queue.submitted(spec(), request_id="r3")


def test_dropping_request_ids_takes_slices() -> None:
    queue = LoneQueue(audited=False)
    for n in range(30):
        queue.submitted(spec(), request_id=f"r{n}")
    queue.now_ms += 20 * MINUTE_MS
    entries = len(queue.entries)

    queue.forget_requests(rows_max=10)

    assert len(queue.entries) == entries + 3
    assert queries.next_forgotten_ms(scope_of(queue.store.view())) is None


def test_request_ids_are_dropped_however_much_is_retired() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(retention=span(0)) for _ in range(50)], request_id="r")
    for task in queue.claimed(50):
        queue.complete(task)
    queue.now_ms += 20 * MINUTE_MS

    queue.decide(RemoveRetired(rows_max=5), ForgetRequests(rows_max=5))

    assert queries.first_retired(scope_of(queue.store.view()), queue.now_ms) is not None
    assert queries.next_forgotten_ms(scope_of(queue.store.view())) is None


def test_a_replayed_claim_of_a_task_long_gone_names_nothing() -> None:
    queue = LoneQueue()
    queue.submitted(spec(retention=span(0)))
    first = replied(queue.claim(request_id="c"), ClaimResponse)
    queue.complete(first.tasks[0])
    queue.remove_retired()

    assert replied(queue.claim(request_id="c"), ClaimResponse) == ClaimResponse()
    assert FencingToken(first.tasks[0].token) not in queue.leases


@pytest.mark.parametrize(
    "age",
    [Duration(seconds=-1), Duration(nanos=1_000_000_000), Duration(seconds=2**63 - 1)],
    ids=str,
)
def test_an_age_that_is_no_length_is_refused(age: Duration) -> None:
    request = task_service_pb2.SubmitRequest(request_id="r", retry_age=age, tasks=[spec()])

    outcome = LoneQueue().outcome(Submit(request=request, id_seed="r"))

    assert isinstance(outcome, Refused)
    assert (reason(outcome), outcome.field) == ("INVALID_ARGUMENT", "retry_age")
