"""Trace contexts, the active span, and where spans are sent."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tests.patience import PATIENCE_S
from tq_common import traces
from tq_common.traceparents import parse_traceparent, trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
CONTEXT = SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=True, trace_flags=TraceFlags(1))
NO_TRACE = SpanContext(0, 0, is_remote=False)


def test_a_trace_context_is_written_and_read_in_one_form() -> None:
    match = parse_traceparent(traces.traceparent_of(CONTEXT))

    assert match is not None
    assert (match.string, match.groups()) == (TRACEPARENT, (TRACE, SPAN, "01"))
    assert trace_id_of(TRACEPARENT) == TRACE
    assert traces.traceparent_of(NO_TRACE) == ""


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", TRACEPARENT.upper(), f"{TRACEPARENT}\n", f"{TRACEPARENT}-00", TRACEPARENT[3:]],
)
def test_what_is_no_trace_context_names_no_trace(text: str) -> None:
    assert trace_id_of(text) == ""


def test_a_log_line_has_the_ids_of_the_active_span() -> None:
    assert traces.active_ids() == {}
    with trace.use_span(NonRecordingSpan(CONTEXT)):
        assert traces.active_ids() == {"trace_id": TRACE, "span_id": SPAN}
    with trace.use_span(NonRecordingSpan(NO_TRACE)):
        assert traces.active_ids() == {}


def test_the_variable_for_traces_overrides_the_one_for_everything() -> None:
    everything = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4317"}
    both = {**everything, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4317"}

    assert traces.standard_endpoint(both) == "http://traces:4317"
    assert traces.standard_endpoint(everything) == "http://all:4317"
    assert traces.standard_endpoint({**both, traces.STANDARD_ENDPOINTS[0]: ""}) == "http://all:4317"
    assert traces.standard_endpoint({}) is None


def test_the_last_spans_are_sent_but_a_collector_that_is_gone_holds_nothing_up() -> None:
    class Provider:
        def __init__(self, go_on: threading.Event) -> None:
            self.begun, self.ended, self.go_on = threading.Event(), threading.Event(), go_on

        def shutdown(self) -> None:
            self.begun.set()
            self.go_on.wait(PATIENCE_S)
            self.ended.set()

    there, gone = threading.Event(), threading.Event()
    there.set()
    quick, stuck = Provider(there), Provider(gone)

    traces.shut_down(quick, PATIENCE_S)
    traces.shut_down(stuck, 0.0)
    traces.shut_down(object(), PATIENCE_S)

    assert quick.ended.is_set()
    assert stuck.begun.wait(PATIENCE_S)
    assert not stuck.ended.is_set()
    gone.set()
