"""What a worker records and logs of attempts, in the traces that their tasks belong to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import copy_context
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.collector import collecting
from tests.spans import Spans, spans, traceparent
from tests.worker.conftest import Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tests.worker.task_service import FakeTaskService
from tests.worker.test_command import Run, output_of, run
from tests.worker.typed_handlers import add
from tq.v1.task_pb2 import TaskSpec
from tq.v1.worker_service_pb2 import ClaimedTask, TaskReport
from tq_client import AsyncClient, Client
from tq_process.settings.setting import SettingsError
from tq_worker.cli import config
from tq_worker.cli.run import options_of
from tq_worker.telemetry import tracing
from tq_worker.telemetry.spans import Tracing
from tq_worker.telemetry.tracing import Telling
from tq_worker.wire import task_reports

__all__ = ["run", "spans"]

TRACE_ID = "1" * 32
SUBMITTED = f"00-{TRACE_ID}-{'2' * 16}-01"
GRANTED = f"00-{TRACE_ID}-{'3' * 16}-01"
UNSAMPLED = f"00-{TRACE_ID}-{'4' * 16}-00"


@pytest.fixture
def own() -> Iterator[Spans]:
    """Spans of a worker alone, which this process does not use otherwise."""
    caught = Spans()
    yield caught
    caught.provider.shutdown()


def claimed(submitter: str = SUBMITTED, grant: str = "") -> ClaimedTask:
    spec = TaskSpec(task_id="t1", queue="q", type="resize", traceparent=submitter)
    return ClaimedTask(spec=spec, token=7, attempt=2, traceparent=grant)


def attempt(
    own: Spans,
    task: ClaimedTask,
    report: TaskReport,
    handler: Callable[[], object] = lambda: None,
    error: BaseException | None = None,
) -> list[ReadableSpan]:
    """Run an attempt as the runner does; returns the spans of such attempts."""

    def inside() -> None:
        span = Tracing(own.provider).begin(task)
        handler()
        if error is not None:
            span.failed(error)
        span.end(report)

    copy_context().run(inside)
    return own.named("run resize")


def test_an_attempt_stands_below_its_lease_and_the_handlers_spans_below_it(own: Spans) -> None:
    def handler() -> None:
        own.tracer.start_span("inner").end()

    [span] = attempt(own, claimed(grant=GRANTED), task_reports.returned("t1", 7, b"ok"), handler)

    [inner] = own.named("inner")
    assert span.parent is not None
    assert traceparent(span).split("-")[1] == TRACE_ID
    assert trace.format_span_id(span.parent.span_id) == "3" * 16
    assert inner.parent == span.get_span_context()
    assert span.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert not trace.get_current_span().get_span_context().is_valid, "it is not active any more"


def test_without_a_traced_lease_it_stands_below_the_submitter_and_without_one_alone(
    own: Spans,
) -> None:
    done = task_reports.returned("t1", 7, None)
    attempt(own, claimed(), done)
    attempt(own, claimed("00-nonsense"), done)

    below, alone = own.named("run resize")
    assert below.parent is not None
    assert trace.format_span_id(below.parent.span_id) == "2" * 16
    assert alone.parent is None


def test_an_attempt_of_a_trace_that_is_not_sampled_is_not_recorded(own: Spans) -> None:
    assert attempt(own, claimed(UNSAMPLED), task_reports.returned("t1", 7, None)) == []


def test_what_the_handler_raised_is_the_spans_error(own: Spans) -> None:
    error = ValueError("no picture\nat all")

    [span] = attempt(own, claimed(), task_reports.raised("t1", 7, error), error=error)

    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ValueError: no picture"
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["tq.attempt.outcome"] == "fail"
    assert [event.name for event in span.events] == ["exception"]


def test_a_task_given_back_is_no_error(own: Spans) -> None:
    [span] = attempt(own, claimed(), task_reports.released("t1", 7, "stopped"))

    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["tq.attempt.outcome"] == "release"


def test_what_a_completion_submits_goes_on_from_the_attempt(own: Spans) -> None:
    report = task_reports.returned("t1", 7, b"ok")
    report.complete.submit.add(type="next")
    report.complete.submit.add(type="other", traceparent="mine")

    [span] = attempt(own, claimed(), report)

    assert [spec.traceparent for spec in report.complete.submit] == [traceparent(span), "mine"]


async def test_an_attempt_whose_process_died_is_recorded_by_its_parent(
    broker: FakeBroker, facts: Facts, start_worker: StartWorker
) -> None:
    with collecting() as collector:
        worker = await start_worker(telling=Telling(otlp_endpoint=collector.address))
        ids = await broker.submit("segfault", facts.payload, max_attempts=1, traceparent=SUBMITTED)
        await broker.until_ended(ids)
        await worker.leave()
        found = await asyncio.to_thread(collector.await_named, "run segfault", "tq report")

    died, report = found
    assert (died.name, report.name) == ("run segfault", "tq report")
    assert (died.trace_id, died.parent_id) == (TRACE_ID, "2" * 16)
    assert died.failed
    assert "SIGSEGV" in died.status
    assert died.start_ns < died.end_ns


async def test_handlers_that_set_up_opentelemetry_themselves_keep_it(
    broker: FakeBroker,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = tmp_path / "spans"
    monkeypatch.setenv("SPANS_FILE", str(written))
    await start_worker(modules=["tests.worker.own_provider"])

    await broker.until_ended(await broker.submit("traced", traceparent=SUBMITTED))

    own_span, run_span = (line.rsplit(" ", 2) for line in written.read_text().splitlines())
    assert (own_span[0], own_span[1]) == ("own", TRACE_ID)
    assert run_span == ["run traced", TRACE_ID, "2" * 16]


@pytest.mark.slow
async def test_each_attempt_has_its_lines_where_they_are_asked_for(
    broker: FakeBroker, run: Run
) -> None:
    process = await run("--log-format", "json", "--log-tasks", "--concurrency", "1")
    ids = [
        *await broker.submit("log", traceparent=SUBMITTED),
        *await broker.submit("permanent", max_attempts=1),
    ]
    await broker.until_ended(ids)
    process.terminate()
    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]

    told = [line for line in lines if line.get("task_id") in ids]
    # The two processes write at their own pace; of each task the order is certain.
    of_each = {each: [line["event"] for line in told if line["task_id"] == each] for each in ids}
    assert of_each == {
        ids[0]: ["attempt started", "seen", "attempt completed"],
        ids[1]: ["attempt started", "attempt failed"],
    }
    assert {line.get("trace_id") for line in told if line["task_id"] == ids[0]} == {TRACE_ID}
    assert not any("trace_id" in line for line in told if line["task_id"] == ids[1])
    assert all(
        (line["queue"], line["attempt"]) == ("q", 1) for line in told if line["event"] != "seen"
    )


@pytest.mark.slow
async def test_only_failures_have_lines_where_no_more_is_asked_for(
    broker: FakeBroker, run: Run
) -> None:
    process = await run("--log-format", "json")
    ids = [*await broker.submit("echo"), *await broker.submit("permanent", max_attempts=1)]
    await broker.until_ended(ids)
    process.terminate()
    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]

    events = [(line["task_id"], line["event"]) for line in lines if "task_id" in line]
    assert events == [(ids[1], "attempt failed")]


def telling_of(flags: Mapping[tuple[str, ...], str], **environment: str) -> Telling:
    needed: Mapping[tuple[str, ...], str] = {("handlers",): "h", ("queues",): "q"}
    return options_of(config.load(None, environment, {**needed, **flags})).telling


def test_flags_go_before_the_environment_and_reach_handler_processes() -> None:
    telling = telling_of(
        {
            ("tracing", "otlp_endpoint"): "https://collector:4317",
            ("tracing", "ratio"): "0.25",
            ("log", "tasks"): "true",
        },
        TQ_OTLP_ENDPOINT="elsewhere:1",
        TQ_TRACING_RATIO="1",
    )

    assert telling == Telling(otlp_endpoint="https://collector:4317", ratio=0.25, log_tasks=True)
    assert Telling.read(telling.environment()) == telling
    by_environment = telling_of({}, TQ_OTLP_ENDPOINT="c:4317", TQ_LOG_TASKS="true")
    assert by_environment == Telling(otlp_endpoint="c:4317", log_tasks=True)
    assert Telling.read(Telling().environment()) == Telling() == telling_of({})


def test_what_is_wrong_with_tracing_options_is_said_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "installed", lambda: False)

    with pytest.raises(SettingsError) as caught:
        telling_of({("tracing", "otlp_endpoint"): "nowhere", ("tracing", "ratio"): "2"})

    assert [str(mistake) for mistake in caught.value.mistakes] == [
        (
            "tracing.otlp_endpoint (--otlp-endpoint): must be host:port, such as 127.0.0.1:7001;"
            " is 'nowhere'"
        ),
        "tracing.ratio (--tracing-ratio): must be a number from 0 to 1; is '2'",
        (
            "tracing.otlp_endpoint (--otlp-endpoint): traces need OpenTelemetry:"
            " pip install 'tq[otel]'"
        ),
    ]


def test_opentelemetrys_own_variable_without_it_is_a_warning_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "installed", lambda: False)

    assert tracing.set_up(Telling(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}) is None
    assert tracing.set_up(Telling(), {}) is None

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "no traces are exported")
    ]


@pytest.fixture
async def tasks(broker: FakeBroker) -> AsyncIterator[FakeTaskService]:
    fake = FakeTaskService(broker)
    await fake.start()
    yield fake
    await fake.stop()


async def test_a_typed_tasks_submit_and_map_belong_to_the_callers_trace(
    broker: FakeBroker, tasks: FakeTaskService, spans: Spans
) -> None:
    def blocking() -> None:
        with Client(tasks.address) as client, spans.tracer.start_as_current_span("order"):
            add.options(client=client).submit(1)
            add.options(client=client).map([2, 3])

    await asyncio.to_thread(blocking)
    async with AsyncClient(tasks.address) as client:
        with spans.tracer.start_as_current_span("order"):
            await add.options(client=client).submit_async(4)

    one, many, awaited = spans.named("tq submit")
    first, second = spans.named("order")
    assert [each.parent for each in (one, many, awaited)] == [
        first.get_span_context(),
        first.get_span_context(),
        second.get_span_context(),
    ]
    assert [task.spec.traceparent for task in broker.tasks.values()] == [
        traceparent(one),
        traceparent(many),
        traceparent(many),
        traceparent(awaited),
    ]
