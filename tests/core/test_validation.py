"""What is refused for its form, and what the refusal says."""

from __future__ import annotations

import math

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.core.lone_queue import LoneQueue, at, reason, replied, span, spec
from tq.v1 import errors_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.limits import DAY_MS
from tq_cluster.core.model.operations import Claim, Refused, Report

Policy = task_pb2.RetryPolicy

BAD_SPECS = {
    "a task id with a space": (spec(task_id="a b"), "task_id"),
    "a task id with a line break at its end": (spec(task_id="a\n"), "task_id"),
    "a task id of 201 characters": (spec(task_id="a" * 201), "task_id"),
    "a task id with a letter beyond ASCII": (spec(task_id="\u00e9"), "task_id"),
    "no queue": (spec(queue=""), "queue"),
    "a queue with a colon": (spec(queue="a:b"), "queue"),
    "a queue of 129 characters": (spec(queue="a" * 129), "queue"),
    "no type": (spec(type=""), "type"),
    "a type with a slash": (spec(type="a/b"), "type"),
    "a priority of 256": (spec(priority=256), "priority"),
    "1,001 attempts": (spec(max_attempts=1_001), "max_attempts"),
    "33 labels": (spec(labels={f"k{n}": "" for n in range(33)}), "labels"),
    "a label without a key": (spec(labels={"": "v"}), "labels"),
    "a label's key of 65 characters": (spec(labels={"k" * 65: "v"}), "labels"),
    "a label's value of 257 characters": (spec(labels={"k": "v" * 257}), "labels[k]"),
    "a content type of 129 bytes": (spec(content_type="a" * 129), "content_type"),
    "a content type of 65 characters in 130 bytes": (
        spec(content_type="\u00e9" * 65),
        "content_type",
    ),
    "a traceparent of 129 bytes": (spec(traceparent="a" * 129), "traceparent"),
    "run_at over 366 d ahead": (spec(run_at=at(366 * DAY_MS + 1)), "run_at"),
    "run_at that is no instant": (spec(run_at=Timestamp(nanos=1_000_000_000)), "run_at"),
    "expire_at before 1970": (spec(expire_at=Timestamp(seconds=-1)), "expire_at"),
    "expire_at after the year 9999": (
        spec(expire_at=Timestamp(seconds=253_402_300_800)),
        "expire_at",
    ),
    "a timeout of nothing": (spec(timeout=span(0)), "timeout"),
    "a timeout under a millisecond": (spec(timeout=Duration(nanos=999_999)), "timeout"),
    "a timeout of two signs": (spec(timeout=Duration(seconds=1, nanos=-1)), "timeout"),
    "a timeout over 7 d": (spec(timeout=span(7 * DAY_MS + 1)), "timeout"),
    "a negative retention": (spec(retention=span(-1)), "retention"),
    "a retention over 366 d": (spec(retention=span(366 * DAY_MS + 1)), "retention"),
    "a first backoff over 24 h": (
        spec(retry_policy=Policy(initial_backoff=span(DAY_MS + 1))),
        "retry_policy.initial_backoff",
    ),
    "a backoff limit over 7 d": (
        spec(retry_policy=Policy(max_backoff=span(7 * DAY_MS + 1))),
        "retry_policy.max_backoff",
    ),
    "a multiplier under 1": (spec(retry_policy=Policy(multiplier=0.9)), "retry_policy.multiplier"),
    "a multiplier over 100": (
        spec(retry_policy=Policy(multiplier=100.1)),
        "retry_policy.multiplier",
    ),
    "a multiplier that is no number": (
        spec(retry_policy=Policy(multiplier=math.nan)),
        "retry_policy.multiplier",
    ),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_task_outside_the_limits_is_refused_naming_the_field(case: str) -> None:
    queue = LoneQueue()
    bad, field = BAD_SPECS[case]

    reply = replied(queue.submit(bad, spec()), task_service_pb2.SubmitResponse)

    error = reply.results[0].error
    assert error.reason == errors_pb2.ERROR_REASON_INVALID_ARGUMENT
    assert error.field == error.metadata["field"] == field
    assert error.message.startswith(field)
    assert len(error.message.split("; ")) == 2, "what is wrong; what would be right"
    assert reply.results[1].HasField("task"), "the other task of the call stands"


GOOD_SPECS = {
    "the longest names": spec(task_id="a" * 200, queue="q" * 128, type="t" * 128),
    "every character a name may have": spec(task_id="aZ09._:-", queue="aZ09._-", type="aZ09._:-"),
    "the highest priority": spec(priority=255),
    "the most attempts": spec(max_attempts=1_000),
    "the most and longest labels": spec(
        labels={f"{n:064}": "v" * 256 for n in range(32)},
    ),
    "the latest run_at": spec(run_at=at(366 * DAY_MS)),
    "a run_at long past": spec(run_at=Timestamp(seconds=1)),
    "the longest spans": spec(timeout=span(7 * DAY_MS), retention=span(366 * DAY_MS)),
    "no retention at all": spec(retention=span(0)),
    "the widest retry policy": spec(
        retry_policy=Policy(
            initial_backoff=span(DAY_MS), multiplier=100, max_backoff=span(7 * DAY_MS)
        )
    ),
}


@pytest.mark.parametrize("case", GOOD_SPECS)
def test_a_task_at_the_limits_is_taken(case: str) -> None:
    queue = LoneQueue()

    (task_id,) = queue.submitted(GOOD_SPECS[case])

    assert queue.exists(task_id)


Request = worker_service_pb2.ClaimRequest

BAD_CLAIMS = {
    "no worker id": (Request(queues=["q"], max_tasks=1), "worker_id"),
    "a worker id of 201 characters": (
        Request(worker_id="w" * 201, queues=["q"], max_tasks=1),
        "worker_id",
    ),
    "no queue": (Request(worker_id="w", max_tasks=1), "queues"),
    "65 queues": (
        Request(worker_id="w", queues=[f"q{n}" for n in range(65)], max_tasks=1),
        "queues",
    ),
    "a queue that no name may be": (
        Request(worker_id="w", queues=["ok", "not ok"], max_tasks=1),
        "queues",
    ),
    "no tasks": (Request(worker_id="w", queues=["q"]), "max_tasks"),
    "1,001 tasks": (Request(worker_id="w", queues=["q"], max_tasks=1_001), "max_tasks"),
    "a lease under a second": (
        Request(worker_id="w", queues=["q"], max_tasks=1, lease=span(999)),
        "lease",
    ),
    "a lease over an hour": (
        Request(worker_id="w", queues=["q"], max_tasks=1, lease=span(3_600_001)),
        "lease",
    ),
    "a wait over a minute": (
        Request(worker_id="w", queues=["q"], max_tasks=1, wait=span(60_001)),
        "wait",
    ),
    "a request id of 129 characters": (
        Request(worker_id="w", queues=["q"], max_tasks=1, request_id="r" * 129),
        "request_id",
    ),
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_a_claim_outside_the_limits_is_refused_naming_the_field(case: str) -> None:
    queue = LoneQueue()
    queue.submitted(spec(queue="q"))
    request, field = BAD_CLAIMS[case]

    outcome = queue.outcome(Claim(request=request))

    assert reason(outcome) == "INVALID_ARGUMENT"
    assert isinstance(outcome, Refused)
    assert outcome.field == outcome.metadata["field"] == field
    assert queue.stats("q").pending == 1


@pytest.mark.parametrize("count", [0, 1_001])
def test_a_report_call_takes_1_to_1000_reports(count: int) -> None:
    queue = LoneQueue()
    reports = [worker_service_pb2.TaskReport(task_id="x", token=1)] * count

    outcome = queue.outcome(Report(request=worker_service_pb2.ReportRequest(reports=reports)))

    assert reason(outcome) == "INVALID_ARGUMENT"


def test_queue_settings_outside_the_limits_are_refused_and_create_no_queue() -> None:
    queue = LoneQueue()

    for outcome in (
        queue.configure("not a name!"),
        queue.configure("q", ordering=7),
        queue.configure("q", aging=span(0)),
        queue.configure("q", aging=span(DAY_MS + 1)),
    ):
        assert reason(outcome) == "INVALID_ARGUMENT"

    assert len(queue.entries) == 0


def test_redriving_takes_either_ids_or_a_queue() -> None:
    queue = LoneQueue()

    assert reason(queue.redrive()) == "INVALID_ARGUMENT"
    assert reason(queue.redrive("a", queue="q")) == "INVALID_ARGUMENT"
    assert reason(queue.redrive(*["a"] * 1_001)) == "INVALID_ARGUMENT"
    assert reason(queue.redrive(queue="q", max_tasks=1_001)) == "INVALID_ARGUMENT"
    assert reason(queue.redrive(queue="nobody-named-it")) == "NOT_FOUND"
