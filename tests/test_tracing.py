"""A broker exports traces only if it was given an endpoint, and only with OpenTelemetry."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from importlib import metadata

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import tq_common
from tests.collector import collecting
from tests.test_telemetry import root_logger
from tq_cluster import telemetry
from tq_cluster.errors import StartError
from tq_cluster.telemetry import logs, spans, tracing
from tq_cluster.telemetry.spans import Tracing

__all__ = ["root_logger"]

NOWHERE = "http://127.0.0.1:1"


def set_up(endpoint: str | None = None, **environment: str) -> Tracing | None:
    return tracing.set_up(otlp_endpoint=endpoint, ratio=None, node_id="n1", environment=environment)


@pytest.fixture
def no_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation without the extra."""
    for package, name in ((telemetry, "spans"), (tq_common, "span_export")):
        monkeypatch.delattr(package, name, raising=False)
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)


def test_the_extra_that_is_named_brings_what_exports_traces() -> None:
    brought = [each for each in metadata.requires("tq") or () if "'otel'" in each.replace('"', "'")]

    assert {re.split(r"[^a-z-]", each)[0] for each in brought} == {
        "opentelemetry-api",
        "opentelemetry-exporter-otlp-proto-grpc",
        "opentelemetry-sdk",
    }


async def test_nobody_is_sent_traces_unless_somebody_was_named() -> None:
    assert set_up() is None
    assert set_up(OTEL_SERVICE_NAME="orders") is None

    for named in (set_up(NOWHERE), set_up(OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE)):
        assert named is not None
        await named.close()


async def test_the_ratio_is_for_traces_that_begin_here_and_the_environment_names_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders-queue")
    submit = ("Submit", "/tq.v1.TaskService/Submit")
    elsewhere = f"00-{'1' * 32}-{'2' * 16}-01"
    with collecting() as collector:
        none = spans.export_to(collector.address, ratio=0.0, node_id="n1")
        with none.call(*submit, "", repr) as begun:
            assert begun == ""
        with none.call(*submit, elsewhere, repr) as joined:
            assert joined.startswith(f"00-{'1' * 32}-")
            assert joined != elsewhere
        await none.close()

        [span] = collector.spans()
    assert (span.service, span.parent_id) == ("orders-queue", "2" * 16)


@pytest.mark.usefixtures("no_opentelemetry")
def test_without_opentelemetry_a_configured_endpoint_is_refused_with_what_to_install() -> None:
    with pytest.raises(StartError, match=r"tracing\.otlp_endpoint .* pip install 'tq\[otel\]'"):
        set_up(NOWHERE)


@pytest.mark.usefixtures("no_opentelemetry")
def test_without_opentelemetry_its_own_variable_is_a_warning_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert set_up(OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE) is None

    [record] = caplog.records
    assert record.getMessage() == "no traces are exported"
    assert logs.keys_of(record)["endpoint"] == NOWHERE


@pytest.mark.usefixtures("no_opentelemetry")
def test_without_opentelemetry_and_without_an_endpoint_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert set_up() is None
    assert caplog.records == []


@pytest.mark.usefixtures("root_logger")
def test_a_line_logged_inside_a_span_names_its_trace() -> None:
    stream = io.StringIO()
    logs.set_up(node_id="n1", style="json", level="info", stream=stream)
    logger = logging.getLogger("tq")
    tracer = TracerProvider().get_tracer("test")

    logger.info("outside")
    with tracer.start_as_current_span("call") as span:
        logger.info("inside")

    outside, inside = map(json.loads, stream.getvalue().splitlines())
    context = span.get_span_context()
    assert "trace_id" not in outside
    assert inside["trace_id"] == trace.format_trace_id(context.trace_id)
    assert inside["span_id"] == trace.format_span_id(context.span_id)
