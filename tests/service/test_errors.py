"""The error that a caller gets when a call fails: one table, part of the contract."""

from __future__ import annotations

import asyncio
from typing import cast

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from tests.service.fakes import Failure, cluster_of, fails, read_details, stubs_of
from tq.v1 import errors_pb2, task_service_pb2
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.model.types import DurationMs
from tq_cluster.errors import (
    FatalError,
    NotAppliedError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
)
from tq_cluster.service import errors
from tq_cluster.service.call import Call, Method

NO_LEVEL = cast(task_service_pb2.ReadLevel.ValueType, 9)

CONTRACT = {
    "INVALID_ARGUMENT": (grpc.StatusCode.INVALID_ARGUMENT, False),
    "PAYLOAD_TOO_LARGE": (grpc.StatusCode.INVALID_ARGUMENT, False),
    "NOT_FOUND": (grpc.StatusCode.NOT_FOUND, False),
    "TASK_EXISTS": (grpc.StatusCode.ALREADY_EXISTS, False),
    "REQUEST_ID_REUSED": (grpc.StatusCode.FAILED_PRECONDITION, False),
    "REQUEST_ID_EXPIRED": (grpc.StatusCode.FAILED_PRECONDITION, False),
    "LEASE_LOST": (grpc.StatusCode.FAILED_PRECONDITION, False),
    "PERMISSION_DENIED": (grpc.StatusCode.PERMISSION_DENIED, False),
    "UNAUTHENTICATED": (grpc.StatusCode.UNAUTHENTICATED, False),
    "NOT_REPLACEABLE": (grpc.StatusCode.FAILED_PRECONDITION, False),
    "QUEUE_IN_USE": (grpc.StatusCode.FAILED_PRECONDITION, False),
    "SETTINGS_CHANGED": (grpc.StatusCode.FAILED_PRECONDITION, False),
    "CYCLE": (grpc.StatusCode.INVALID_ARGUMENT, False),
    "HAS_DEPENDENTS": (grpc.StatusCode.FAILED_PRECONDITION, False),
    "UNSUPPORTED": (grpc.StatusCode.UNIMPLEMENTED, False),
    "NOT_LEADER": (grpc.StatusCode.FAILED_PRECONDITION, True),
    "NO_LEADER": (grpc.StatusCode.UNAVAILABLE, True),
    "REQUEST_IDS_EXHAUSTED": (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    "DISK_PRESSURE": (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    "QUOTA_EXCEEDED": (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    "QUEUE_PAUSED": (grpc.StatusCode.FAILED_PRECONDITION, True),
    "OVERLOADED": (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    "CALL_FULL": (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    "NO_STATE": (grpc.StatusCode.UNAVAILABLE, True),
    "OUTCOME_UNKNOWN": (grpc.StatusCode.UNAVAILABLE, True),
    "INTERNAL": (grpc.StatusCode.INTERNAL, False),
}
"""Reason: its status, and whether it says when to retry."""

REASONS = [name for name in errors_pb2.ErrorReason.keys() if not name.endswith("UNSPECIFIED")]  # noqa: SIM118  # no mapping


def read(error: errors.CallError) -> Failure:
    failure = Failure()
    failure.code, failure.message = error.code, error.message
    read_details(failure, error.details)
    return failure


@pytest.mark.parametrize("name", REASONS)
def test_every_reason_leaves_with_the_status_that_the_contract_gives_it(name: str) -> None:
    reason = errors_pb2.ErrorReason.Value(name)
    short = name.removeprefix("ERROR_REASON_")
    code, retries = CONTRACT[short]

    error = errors.refusal(
        Refused(reason=reason, message="why", field="a.b", metadata={"limit": "1"})
    )

    failure = read(error)
    assert (failure.code, failure.reason, failure.message) == (code, short, "why")
    assert failure.metadata == {"limit": "1", "field": "a.b"}
    assert (failure.retry_after_ms is not None) == retries
    assert error.reason == reason


def test_a_refusal_that_says_when_to_retry_is_believed() -> None:
    refused = Refused(
        reason=errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        message="full",
        retry_after_ms=DurationMs(7_000),
    )

    assert read(errors.refusal(refused)).retry_after_ms == 7_000


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotLeaderError("n2"), "NOT_LEADER"),
        (NotAppliedError(), "NOT_LEADER"),
        (OutcomeUnknownError(), "OUTCOME_UNKNOWN"),
        (OverloadedError("many"), "OVERLOADED"),
        (DecodeError("garbage"), "INVALID_ARGUMENT"),
    ],
)
def test_what_went_wrong_inside_is_told_by_what_happened_to_the_request(
    error: Exception, reason: str
) -> None:
    told = errors.failure(error)

    assert told is not None
    assert read(told).reason == reason


def test_what_should_not_have_happened_has_no_row() -> None:
    assert errors.failure(KeyError("x")) is None


async def test_a_call_that_meets_a_damaged_state_ends_the_process() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = meet_damage

        with fails() as failure:
            await stubs.tasks.Submit(task_service_pb2.SubmitRequest(), timeout=5)
        found = [type(each) for each in cluster["n1"].errors]
        cluster["n1"].errors.clear()

    assert failure.reason == "INTERNAL"
    assert found == [FatalError]


async def meet_damage() -> Refused:
    raise FatalError("a row fails its CRC")


async def test_a_refusal_reaches_the_caller_through_a_follower_unchanged() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = refuse

        with fails() as failure:
            await stubs.tasks.Submit(task_service_pb2.SubmitRequest(), timeout=5)

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "PAYLOAD_TOO_LARGE"
    assert failure.message == "too large"
    assert failure.metadata == {"limit": "10", "actual": "11", "field": "tasks[0].payload"}


async def refuse() -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE,
        message="too large",
        field="tasks[0].payload",
        metadata={"limit": "10", "actual": "11"},
    )


async def test_a_fault_of_ours_is_internal_and_names_its_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def break_down() -> Refused:
        raise KeyError("secret")

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].leader.answer = break_down
        with fails() as failure:
            await stubs.tasks.Submit(task_service_pb2.SubmitRequest(), timeout=5)

    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in failure.message
    [record] = [record for record in caplog.records if record.message == "call failed"]
    assert vars(record)["call"] == failure.metadata["call"]


async def test_bytes_that_are_no_request_are_refused() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        submit: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        submit = stubs.channel.unary_unary("/tq.v1.TaskService/Submit")
        with fails() as failure:
            await submit(b"\xff\xff", timeout=5)

    assert failure.reason == "INVALID_ARGUMENT"


async def test_a_node_that_holds_all_the_calls_it_takes_says_overloaded() -> None:
    gate = asyncio.Event()

    async def wait() -> Refused:
        await gate.wait()
        return await refuse()

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader
        leader.answer = wait
        request = task_service_pb2.SubmitRequest()
        held = [asyncio.ensure_future(stubs.tasks.Submit(request)) for _ in range(50)]
        while len(leader.asked) < 50:
            leader.arrived.clear()
            await leader.arrived.wait()
        with fails() as failure:
            await stubs.tasks.Submit(request, timeout=5)
        gate.set()
        await asyncio.gather(*held, return_exceptions=True)

    assert failure.reason == "OVERLOADED"
    assert failure.metadata == {"limit": "50"}
    assert failure.retry_after_ms == 100


def test_a_message_that_repeats_what_was_sent_fits_an_answers_trailing_metadata() -> None:
    refused = Refused(
        reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT, message="\N{SNOWMAN}" * 5_000
    )

    failure = errors.refusal(refused)

    assert len(failure.message.encode()) <= errors.MESSAGE_BYTES_MAX + len("...")
    assert failure.message.endswith("\N{SNOWMAN}...")
    assert len(failure.details) < 2 * errors.MESSAGE_BYTES_MAX


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        (
            "GetTask",
            task_service_pb2.GetTaskRequest(task_id="t", read_level=NO_LEVEL),
            "read_level",
        ),
        (
            "WaitTask",
            task_service_pb2.WaitTaskRequest(task_id="t", wait=Duration(seconds=-1)),
            "wait",
        ),
    ],
)
async def test_what_a_read_asks_for_in_vain_is_refused_by_its_field(
    method: str, request_: Message, field: str
) -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        with fails() as failure:
            await getattr(stubs.tasks, method)(request_, timeout=5)

    assert (failure.reason, failure.metadata["field"]) == ("INVALID_ARGUMENT", field)


def test_an_age_that_is_no_length_is_sent_on_as_it_came() -> None:
    request = task_service_pb2.SubmitRequest(retry_age=Duration(seconds=2**63 - 1))
    raw = request.SerializeToString()

    assert method_of(task_service_pb2.SubmitRequest).aged(raw, elapsed_s=5) == raw


def method_of(request: type[Message]) -> Method:
    async def handle(_request: object, _call: Call) -> Message:
        raise AssertionError("not called")

    return Method(name="Submit", request=request, handle=handle)
