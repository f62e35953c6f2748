"""What is submitted inside a caller's span belongs to its trace."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from tests.client.fake_broker import FakeBroker, hold_until, serving
from tests.spans import Spans, spans, traceparent
from tq_client import AsyncClient, Client, TqError, task_spec
from tq_client.errors import InvalidArgumentError

__all__ = ["spans"]

GIVEN = "00-11111111111111111111111111111111-2222222222222222-01"


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def headers(broker: FakeBroker, method: str) -> list[str | None]:
    return [call.metadata.get("traceparent") for call in broker.calls if call.method == method]


async def test_a_task_carries_the_context_of_its_submit_and_so_does_the_call(spans: Spans) -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with spans.tracer.start_as_current_span("order") as order:
            task_id = await client.submit("mail", "send")

    [submit] = spans.named("tq submit")
    assert submit.parent == order.get_span_context()
    assert submit.kind is SpanKind.PRODUCER
    assert attributes(submit) == {
        "messaging.system": "tq",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": task_id,
        "tq.task.type": "send",
    }
    assert broker.of("Submit")[0].tasks[0].traceparent == traceparent(submit)
    assert headers(broker, "Submit") == [traceparent(submit)]


async def test_the_blocking_client_takes_the_span_of_the_thread_that_calls_it(
    spans: Spans,
) -> None:
    broker = FakeBroker()

    def order(addresses: str) -> None:
        with Client(addresses) as client, spans.tracer.start_as_current_span("order"):
            client.submit("mail", "send")
            client.submit_many([task_spec("mail", "send")])

    async with serving(broker) as addresses:
        await asyncio.to_thread(order, addresses)

    [span] = spans.named("order")
    submits = spans.named("tq submit")
    assert [submit.parent for submit in submits] == [span.get_span_context()] * 2
    assert [request.tasks[0].traceparent for request in broker.of("Submit")] == [
        traceparent(submit) for submit in submits
    ]


async def test_tasks_that_are_submitted_together_have_one_span(spans: Spans) -> None:
    broker = FakeBroker()
    graph = [task_spec("mail", "write"), task_spec("mail", "send", depends_on=[0])]
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with spans.tracer.start_as_current_span("order"):
            await client.submit_together(graph)

    [submit] = spans.named("tq submit")
    [request] = broker.of("SubmitTogether")
    assert [each.traceparent for each in request.tasks] == [traceparent(submit)] * 2
    assert headers(broker, "SubmitTogether") == [traceparent(submit)]
    assert attributes(submit)["messaging.batch.message_count"] == 2
    assert not graph[0].traceparent


async def test_submits_that_share_a_call_keep_each_its_own_trace(spans: Spans) -> None:
    release = asyncio.Event()
    broker = FakeBroker(steps=[hold_until(release)])

    async def order(client: AsyncClient, number: int) -> None:
        with spans.tracer.start_as_current_span(f"order {number}"):
            await client.submit("mail", "send", task_id=f"t{number}")

    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        first = asyncio.create_task(order(client, 0))
        await broker.arrived.wait()
        others = [asyncio.create_task(order(client, number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(first, *others)

    submits = {attributes(span)["messaging.message.id"]: span for span in spans.named("tq submit")}
    alone, together = broker.of("Submit")
    assert len(together.tasks) == 3
    for task in (*alone.tasks, *together.tasks):
        [order_span] = spans.named(f"order {task.task_id[1:]}")
        assert task.traceparent == traceparent(submits[task.task_id])
        assert submits[task.task_id].parent == order_span.get_span_context()
    # The second call is not the first one's, although that one's answer sent it off.
    assert headers(broker, "Submit") == [traceparent(submits["t0"]), traceparent(submits["t1"])]


async def test_many_tasks_of_one_submit_share_its_span_and_a_context_given_stays(
    spans: Spans,
) -> None:
    broker = FakeBroker()
    mine = task_spec("mail", "send", traceparent=GIVEN)
    plain = task_spec("mail", "send")
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit_many([plain, mine, plain])

    [submit] = spans.named("tq submit")
    assert attributes(submit)["messaging.batch.message_count"] == 3
    [request] = broker.of("Submit")
    stamped = traceparent(submit)
    assert [task.traceparent for task in request.tasks] == [stamped, GIVEN, stamped]
    assert not plain.traceparent, "the caller's own spec was changed"


async def test_a_refused_submit_is_an_error_of_its_span(spans: Spans) -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(InvalidArgumentError):
            await client.submit("mail", "send", priority=256)
        [refused, _] = await client.submit_many(
            [task_spec("mail", "send", priority=256), task_spec("mail", "send")]
        )

    assert isinstance(refused, TqError)
    one, many = spans.named("tq submit")
    assert one.status.status_code is many.status.status_code is StatusCode.ERROR
    assert attributes(one)["error.type"] == "INVALID_ARGUMENT"
    assert many.status.description == (
        "InvalidArgumentError: 1 of 2 tasks were not created; the first: "
        "INVALID_ARGUMENT: 256 is above 255"
    )


async def test_a_trace_that_is_not_sampled_stays_so(spans: Spans) -> None:
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with tracer.start_as_current_span("order") as order:
            await client.submit("mail", "send")

    assert spans.named("tq submit") == []
    [request] = broker.of("Submit")
    trace_id = format(order.get_span_context().trace_id, "032x")
    assert request.tasks[0].traceparent.startswith(f"00-{trace_id}-")
    assert not int(request.tasks[0].traceparent[-2:], 16) & trace.TraceFlags.SAMPLED


async def test_other_calls_carry_the_callers_own_span(spans: Spans) -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.get("t1")
        with spans.tracer.start_as_current_span("look") as look:
            await client.get("t1")

    assert headers(broker, "GetTask") == [None, traceparent(look)]


async def test_a_context_that_no_header_could_carry_goes_in_the_task_alone() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send", traceparent="añy\nthing")

    assert broker.of("Submit")[0].tasks[0].traceparent == "añy\nthing"
    assert headers(broker, "Submit") == [None]


async def test_without_a_span_or_a_provider_nothing_is_stamped() -> None:
    assert not trace.get_current_span().get_span_context().is_valid
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send")

    assert not broker.of("Submit")[0].tasks[0].traceparent
    assert headers(broker, "Submit") == [None]


def test_the_client_does_not_import_opentelemetry_by_itself() -> None:
    program = (
        "import sys, tq_client\n"
        "from tq_client import tracing\n"
        "assert tracing.current_traceparent() == ''\n"
        "tracing.submission()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
