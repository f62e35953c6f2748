"""What a broker records of calls and of tasks, in the traces that they belong to."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
from google.protobuf.message import Message
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, fails, stubs_of
from tests.spans import Spans, traceparent
from tq.v1 import task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Outcome, Refused, Replied
from tq_cluster.telemetry.spans import TRACES_MAX, Tracing

CALLER = f"00-{'1' * 32}-{'2' * 16}-01"
UNSAMPLED = f"00-{'3' * 32}-{'4' * 16}-00"
CLAIM = worker_service_pb2.ClaimRequest(worker_id="w1", queues=["q"], max_tasks=1000)


@pytest.fixture
def spans() -> Iterator[Spans]:
    caught = Spans()
    yield caught
    caught.provider.shutdown()


@pytest.fixture
def tracing(spans: Spans) -> Tracing:
    return Tracing(spans.provider, "1")


def answering(reply: Message) -> Callable[[], Awaitable[Outcome]]:
    async def answer() -> Outcome:
        return Replied(reply=reply)

    return answer


def submit_of(*traceparents: str) -> task_service_pb2.SubmitRequest:
    return task_service_pb2.SubmitRequest(
        tasks=[task_pb2.TaskSpec(queue="q", type="t", traceparent=each) for each in traceparents]
    )


def created(*task_ids: str) -> task_service_pb2.SubmitResponse:
    reply = task_service_pb2.SubmitResponse()
    for task_id in task_ids:
        reply.results.add().task.task_id = task_id
    return reply


def granted(*traceparents: str) -> worker_service_pb2.ClaimResponse:
    reply = worker_service_pb2.ClaimResponse()
    for number, each in enumerate(traceparents):
        task = reply.tasks.add(attempt=1, token=number)
        task.spec.CopyFrom(
            task_pb2.TaskSpec(task_id=f"t{number}", queue="q", type="t", traceparent=each)
        )
    return reply


def trace_of(number: int, flags: str = "01") -> str:
    return f"00-{number:032x}-{'5' * 16}-{flags}"


def trace_ids(spans: list[ReadableSpan]) -> list[str]:
    return [format_trace_id(span.context.trace_id) for span in spans if span.context]


async def test_a_submit_is_a_span_below_its_callers_on_each_node_that_it_passes(
    spans: Spans, tracing: Tracing
) -> None:
    async with cluster_of("n1", "n2", tracing=tracing) as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = answering(created("t1"))
        await stubs.tasks.Submit(
            submit_of(""), timeout=PATIENCE_S, metadata=(("traceparent", CALLER),)
        )

    decided, forwarded = spans.named("tq.submit")
    [operation] = cluster["n1"].leader.asked
    assert forwarded.parent is not None
    assert format_trace_id(forwarded.parent.trace_id) == "1" * 32
    assert decided.parent is not None
    assert decided.parent.span_id == forwarded.get_span_context().span_id  # type: ignore[union-attr]
    assert operation.caller.traceparent == traceparent(decided), "what tasks without one inherit"
    assert decided.kind is SpanKind.SERVER
    assert dict(decided.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "tq.v1.TaskService",
        "rpc.method": "Submit",
        "messaging.system": "tq",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": "q",
        "messaging.message.id": "t1",
        "tq.task.type": "t",
    }


async def test_a_call_shared_by_several_submitters_stands_in_the_trace_of_each(
    spans: Spans, tracing: Tracing
) -> None:
    request = submit_of(CALLER, trace_of(7), UNSAMPLED, trace_of(7), trace_of(8), "nonsense")
    async with cluster_of("n1", tracing=tracing) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = answering(created(*"abcdef"))
        await stubs.tasks.Submit(request, timeout=PATIENCE_S, metadata=(("traceparent", CALLER),))

    seven, eight, call = spans.named("tq.submit")
    assert trace_ids([seven, eight, call]) == [f"{7:032x}", f"{8:032x}", "1" * 32]
    assert [each.attributes["messaging.message.id"] for each in (seven, eight)] == ["b", "e"]  # type: ignore[index]
    assert [link.context for link in eight.links] == [call.get_span_context()]
    assert call.attributes["messaging.batch.message_count"] == 6  # type: ignore[index]


async def test_a_submit_outside_of_any_trace_begins_one_and_other_calls_do_not(
    spans: Spans, tracing: Tracing
) -> None:
    async with cluster_of("n1", tracing=tracing) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = answering(created("t1"))
        await stubs.tasks.Submit(submit_of(""), timeout=PATIENCE_S)
        cluster["n1"].leader.answer = answering(granted(""))
        reply = await stubs.worker.Claim(CLAIM, timeout=PATIENCE_S)

    [submit] = spans.named("tq.submit")
    assert submit.parent is None
    assert cluster["n1"].leader.asked[0].caller.traceparent == traceparent(submit)
    assert spans.named("tq.claim") == []
    assert not reply.tasks[0].traceparent


async def test_a_trace_that_is_not_sampled_is_passed_on_and_not_recorded(
    spans: Spans, tracing: Tracing
) -> None:
    async with cluster_of("n1", tracing=tracing) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = answering(created("t1"))
        metadata = (("traceparent", UNSAMPLED),)
        await stubs.tasks.Submit(submit_of(UNSAMPLED), timeout=PATIENCE_S, metadata=metadata)
        cluster["n1"].leader.answer = answering(granted(UNSAMPLED))
        reply = await stubs.worker.Claim(CLAIM, timeout=PATIENCE_S)

    assert cluster["n1"].leader.asked[0].caller.traceparent == UNSAMPLED
    assert spans.named("tq.submit") == spans.named("tq.claim") == []
    assert not reply.tasks[0].traceparent


async def test_a_lease_is_a_span_in_its_tasks_trace_and_the_worker_is_told_which(
    spans: Spans, tracing: Tracing
) -> None:
    reply = granted(CALLER, "", trace_of(9))
    async with cluster_of("n1", tracing=tracing) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = answering(reply)
        reply = await stubs.worker.Claim(CLAIM, timeout=PATIENCE_S)

    first, third = spans.named("tq.claim")
    assert trace_ids([first, third]) == ["1" * 32, f"{9:032x}"]
    assert [task.traceparent for task in reply.tasks] == [
        traceparent(first),
        "",
        traceparent(third),
    ]
    assert dict(first.attributes or {}) == {
        "messaging.system": "tq",
        "messaging.operation.name": "claim",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "q",
        "messaging.message.id": "t0",
        "tq.task.type": "t",
        "tq.task.attempt": 1,
        "tq.worker.id": "w1",
    }


async def test_what_a_claim_waited_for_a_task_is_no_part_of_the_grant(
    spans: Spans, tracing: Tracing
) -> None:
    reply = granted(CALLER)
    reply.tasks[0].waited.FromSeconds(60)
    tracing.granted("w1", reply, 60.25)

    [claim] = spans.named("tq.claim")
    assert claim.end_time is not None
    assert claim.start_time is not None
    assert claim.end_time - claim.start_time == 250_000_000


async def test_a_grant_does_not_begin_before_its_task(spans: Spans, tracing: Tracing) -> None:
    reply = granted(CALLER)
    reply.tasks[0].submitted_at.GetCurrentTime()
    tracing.granted("w1", reply, 60.0)

    [claim] = spans.named("tq.claim")
    assert claim.start_time == reply.tasks[0].submitted_at.ToNanoseconds()


async def test_one_call_records_no_more_than_the_event_loop_bears(
    spans: Spans, tracing: Tracing
) -> None:
    reply = granted(*map(trace_of, range(1, 1001)))
    tracing.granted("w1", reply, 0.0)

    assert len(spans.named("tq.claim")) == TRACES_MAX
    assert [bool(task.traceparent) for task in reply.tasks].count(True) == TRACES_MAX


async def test_a_refused_call_is_an_error_of_its_span(spans: Spans, tracing: Tracing) -> None:
    async def refuse() -> Outcome:
        return Refused(reason=1, message="tasks is empty")  # type: ignore[arg-type] # INVALID_ARGUMENT

    async with cluster_of("n1", tracing=tracing) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        cluster["n1"].leader.answer = refuse
        with fails():
            await stubs.tasks.Submit(submit_of(), timeout=5)

    [submit] = spans.named("tq.submit")
    assert submit.status.status_code is StatusCode.ERROR
    assert submit.attributes["error.type"] == "INVALID_ARGUMENT"  # type: ignore[index]
    assert submit.status.description == "tasks is empty"


async def test_a_collector_that_is_gone_does_not_hold_a_node_up(
    spans: Spans, tracing: Tracing, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr("tq_cluster.telemetry.spans.FLUSH_S", 0.01)
    monkeypatch.setattr(spans.provider, "shutdown", stuck.wait)

    await tracing.close()

    stuck.set()
