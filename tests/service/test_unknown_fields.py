"""A request with a field that the broker does not know is refused, and never stripped of it."""

from __future__ import annotations

import importlib
import math
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, fails, stubs_of
from tq.v1 import errors_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Refused
from tq_cluster.service import unknown, wire
from tq_cluster.service.wire import RefusedRequestError, field_bytes, rules_of

AnyMessage = TypeVar("AnyMessage", bound=Message)

SUBMIT = rules_of(task_service_pb2.SubmitRequest.DESCRIPTOR, {"tasks": 1_000, "tasks.labels": 32})
UNKNOWN = field_bytes(57, b"x")


def with_unknown(message: AnyMessage) -> AnyMessage:
    """The message with a field that its type does not have."""
    return type(message).FromString(message.SerializeToString() + UNKNOWN)


async def parsed(kind: type[Message], raw: bytes, cuts: list[int] | None = None) -> Message:
    """Parse a request as the service does."""
    return await wire.parse(kind, raw, cuts or [])


async def refused(kind: type[Message], raw: bytes, cuts: list[int] | None = None) -> Refused:
    """The refusal of a request."""
    with pytest.raises(RefusedRequestError) as caught:
        await parsed(kind, raw, cuts)
    assert caught.value.refused.reason == errors_pb2.ERROR_REASON_UNSUPPORTED
    return caught.value.refused


async def test_the_refusal_names_the_number_and_the_message_that_has_the_field() -> None:
    request = task_service_pb2.SubmitRequest(request_id="r")
    for _ in range(5):
        request.tasks.add(queue="q", type="t")
    request.tasks[3].CopyFrom(with_unknown(request.tasks[3]))

    refusal = await refused(task_service_pb2.SubmitRequest, request.SerializeToString())

    assert refusal.message == (
        f"field 57 of tasks[3] is not known to this broker (version {unknown.VERSION});"
        " upgrade the brokers first, or leave the field out"
    )
    assert refusal.field == "tasks[3]"
    assert refusal.metadata == {"number": "57", "message": "tq.v1.TaskSpec"}


async def test_a_field_of_the_request_itself_is_refused() -> None:
    refusal = await refused(task_service_pb2.GetTaskRequest, UNKNOWN)

    assert refusal.message.startswith("field 57 of the request is not known to this broker")


@pytest.mark.parametrize(
    ("holder", "path"),
    [
        ("tasks", "tasks[0]"),
        ("retry_policy", "tasks[0].retry_policy"),
        ("timeout", "tasks[0].timeout"),
        ("max_backoff", "tasks[0].retry_policy.max_backoff"),
        ("retry_age", "retry_age"),
    ],
)
async def test_it_is_found_at_any_depth(holder: str, path: str) -> None:
    span = Duration(seconds=1)
    policy = task_pb2.RetryPolicy(max_backoff=with_unknown(span) if "max" in holder else span)
    spec = task_pb2.TaskSpec(
        retry_policy=with_unknown(policy) if holder == "retry_policy" else policy,
        timeout=with_unknown(span) if holder == "timeout" else span,
    )
    request = task_service_pb2.SubmitRequest(
        tasks=[with_unknown(spec) if holder == "tasks" else spec],
        retry_age=with_unknown(span) if holder == "retry_age" else span,
    )

    refusal = await refused(task_service_pb2.SubmitRequest, request.SerializeToString())

    assert refusal.field == path


async def test_a_task_that_a_completion_submits_is_checked_too() -> None:
    request = worker_service_pb2.ReportRequest()
    request.reports.add()
    request.reports.add().complete.submit.add().CopyFrom(with_unknown(task_pb2.TaskSpec()))

    refusal = await refused(worker_service_pb2.ReportRequest, request.SerializeToString())

    assert refusal.field == "reports[1].complete.submit[0]"


async def test_a_known_field_in_another_encoding_is_refused_and_named() -> None:
    """Protobuf counts it as unknown: its value would be lost as well."""
    as_a_number = b"\x10\x05"

    refusal = await refused(task_service_pb2.SubmitRequest, field_bytes(3, as_a_number))

    assert "field 2 (queue) of tasks[0] is encoded as another type" in refusal.message


async def test_a_large_request_is_checked_piece_by_piece_and_its_items_keep_their_places() -> None:
    request = task_service_pb2.SubmitRequest()
    for index in range(300):
        request.tasks.add(task_id=f"t{index}", queue="q", type="t", payload=bytes(4_000))
    known = request.SerializeToString()
    request.tasks[250].CopyFrom(with_unknown(request.tasks[250]))
    raw = request.SerializeToString()
    cuts = await wire.check(raw, SUBMIT)
    assert cuts

    refusal = await refused(task_service_pb2.SubmitRequest, raw, cuts)

    assert refusal.field == "tasks[250]"
    whole = await parsed(task_service_pb2.SubmitRequest, known, await wire.check(known, SUBMIT))
    assert whole == task_service_pb2.SubmitRequest.FromString(known)


async def test_the_search_is_bounded_and_refuses_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unknown, "SEARCH_MESSAGES_MAX", 10)
    request = task_service_pb2.SubmitRequest(tasks=[task_pb2.TaskSpec()] * 20)
    request.tasks[15].CopyFrom(with_unknown(task_pb2.TaskSpec()))

    refusal = await refused(task_service_pb2.SubmitRequest, request.SerializeToString())

    assert refusal.message.startswith("a field of the request is not known to this broker")


async def test_a_long_search_lets_other_work_go_on() -> None:
    request = worker_service_pb2.HeartbeatRequest()
    for _ in range(2_000):
        request.leases.add()
    request.leases.add().CopyFrom(with_unknown(worker_service_pb2.HeldLease()))
    search = unknown.find_unknown(request)

    assert sum(1 for _ in search) == 2_002 // unknown.STEP_MESSAGES


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(field_bytes(3, b"\x30\x85\x80\x00"), id="a number longer than needed"),
        pytest.param(field_bytes(3, b"\x30\x05\x30\x06"), id="a number twice"),
        pytest.param(field_bytes(3, b"\x30\x00"), id="a default that is sent"),
        pytest.param(field_bytes(3, field_bytes(11, b"")), id="a label without key and value"),
        pytest.param(field_bytes(3, field_bytes(11, field_bytes(1, b"k"))), id="without a value"),
        pytest.param(
            field_bytes(3, field_bytes(11, field_bytes(2, b"v") + field_bytes(1, b"k"))),
            id="the value before the key",
        ),
        pytest.param(
            field_bytes(
                3,
                field_bytes(10, field_bytes(1, b"\x08\x01")) + field_bytes(10, field_bytes(3, b"")),
            ),
            id="a message in two parts",
        ),
        pytest.param(field_bytes(2, b"\x08\x01") + field_bytes(2, b"\x10\x01"), id="merged spans"),
        pytest.param(field_bytes(3, b"\x78\x09"), id="an enum's value of later"),
    ],
)
async def test_a_legal_encoding_is_taken_however_unusual(raw: bytes) -> None:
    message = await parsed(task_service_pb2.SubmitRequest, raw)

    assert message == task_service_pb2.SubmitRequest.FromString(raw)


async def test_numbers_packed_and_by_themselves_are_taken() -> None:
    raw = field_bytes(2, b"\x01\x02") + b"\x10\x03"

    message = await parsed(task_service_pb2.ListTasksRequest, raw)

    assert message == task_service_pb2.ListTasksRequest(states=[1, 2, 3])  # type: ignore[list-item]  # numbers of states


async def test_a_number_that_does_not_equal_itself_is_no_unknown_field() -> None:
    request = task_service_pb2.SubmitRequest()
    request.tasks.add().retry_policy.multiplier = math.nan

    message: Any = await parsed(task_service_pb2.SubmitRequest, request.SerializeToString())

    assert math.isnan(message.tasks[0].retry_policy.multiplier)
    request.tasks.add().CopyFrom(with_unknown(task_pb2.TaskSpec()))
    assert (
        await refused(task_service_pb2.SubmitRequest, request.SerializeToString())
    ).field == "tasks[1]"


SPECS = st.builds(
    task_pb2.TaskSpec,
    queue=st.text(max_size=3),
    payload=st.binary(max_size=5),
    priority=st.integers(0, 300),
    labels=st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=3),
    retry_policy=st.none() | st.builds(task_pb2.RetryPolicy, multiplier=st.floats()),
    timeout=st.none() | st.builds(Duration, seconds=st.integers(-5, 5)),
)


@given(first=st.lists(SPECS, max_size=4), second=st.lists(SPECS, max_size=4))
async def test_any_two_requests_one_after_the_other_are_taken(
    first: list[task_pb2.TaskSpec], second: list[task_pb2.TaskSpec]
) -> None:
    """Protobuf merges them: a legal encoding of all their tasks."""
    raw = b"".join(
        task_service_pb2.SubmitRequest(tasks=specs).SerializeToString() for specs in (first, second)
    )

    message: Any = await parsed(task_service_pb2.SubmitRequest, raw)

    assert len(message.tasks) == len(first) + len(second)


def methods() -> dict[str, MethodDescriptor]:
    """Every method of the public API by its path."""
    found: dict[str, MethodDescriptor] = {}
    for name in ("task", "worker", "queue", "cluster", "conversation"):
        module = importlib.import_module(f"tq.v1.{name}_service_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                found[f"/{service.full_name}/{method.name}"] = method
    return found


@pytest.mark.parametrize("path", methods())
async def test_every_method_refuses_at_the_leader_and_through_a_follower(path: str) -> None:
    described = methods()[path]
    raw = message_factory.GetMessageClass(described.input_type)().SerializeToString() + UNKNOWN
    async with cluster_of("n1", "n2") as cluster:
        cluster.elect("n1", 1)
        for node in (cluster["n1"], cluster["n2"]):
            async with stubs_of(node) as stubs:
                with fails() as failure:
                    if described.client_streaming:
                        both: Any = stubs.channel.stream_stream(path)
                        said = both(timeout=PATIENCE_S)
                        await said.write(raw)
                        await said.read()
                    elif described.server_streaming:
                        stream: Any = stubs.channel.unary_stream(path)
                        async for _ in stream(raw, timeout=PATIENCE_S):
                            pass
                    else:
                        call: Any = stubs.channel.unary_unary(path)
                        await call(raw, timeout=PATIENCE_S)
            assert failure.code is grpc.StatusCode.UNIMPLEMENTED
            assert failure.reason == "UNSUPPORTED"
            assert failure.metadata["number"] == "57"
            assert failure.retry_after_ms is None
        assert cluster["n1"].leader.asked == []


async def test_a_local_read_is_refused_by_the_node_that_answers_it() -> None:
    request = task_service_pb2.GetTaskRequest(
        task_id="a", read_level=task_service_pb2.READ_LEVEL_LOCAL
    )
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        with fails() as failure:
            await stubs.tasks.GetTask(with_unknown(request), timeout=PATIENCE_S)

    assert failure.reason == "UNSUPPORTED"
    assert failure.metadata["message"] == "tq.v1.GetTaskRequest"
