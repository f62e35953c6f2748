"""An OpenTelemetry collector in this process: a real OTLP service that keeps the spans it gets."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.patience import PATIENCE_S


@dataclass(frozen=True)
class Received:
    """One span as received."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, object]
    failed: bool
    status: str

    @classmethod
    def of(cls, service: str, span: trace_pb2.Span) -> Self:
        return cls(
            service=service,
            name=span.name,
            kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            attributes=_values(list(span.attributes)),
            failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
            status=span.status.message,
        )


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans from any process."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._spans: list[Received] = []
        self.address = ""

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._arrived:
            for resource in request.resource_spans:
                service = str(_values(list(resource.resource.attributes))["service.name"])
                for scope in resource.scope_spans:
                    self._spans += [Received.of(service, span) for span in scope.spans]
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Received]:
        """All spans received so far, in the order in which they began."""
        with self._arrived:
            return sorted(self._spans, key=lambda span: span.start_ns)

    def await_named(self, *names: str, within_s: float = PATIENCE_S) -> list[Received]:
        """Wait until spans of these names have arrived, each as often as named; return all."""

        def missing() -> Counter[str]:
            return Counter(names) - Counter(span.name for span in self._spans)

        with self._arrived:
            if not self._arrived.wait_for(lambda: not missing(), within_s):
                tree = render(sorted(self._spans, key=lambda span: span.start_ns))
                raise AssertionError(f"not within {within_s} s: {missing()}; there is:\n{tree}")
        return self.spans()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens on loopback."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]  # generated
        collector, server
    )
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def render(spans: list[Received]) -> str:
    """Draw spans as a tree, each below its parent."""
    known = {span.span_id for span in spans}
    lines: list[str] = []

    def draw(parents: set[str], depth: int) -> None:
        for span in spans:
            orphan = depth == 0 and span.parent_id not in known
            if orphan or span.parent_id in parents:
                ms = (span.end_ns - span.start_ns) / 1e6
                facts = {
                    key.removeprefix("messaging."): value
                    for key, value in span.attributes.items()
                    if key.startswith(("messaging.d", "messaging.message", "tq.", "error."))
                }
                text = " ".join(f"{key}={value}" for key, value in facts.items())
                mark = " ERROR" if span.failed else ""
                lines.append(
                    f"{'  ' * depth}{span.name} [{span.service}, {span.kind.lower()}, {ms:.1f} ms]"
                    f"{mark} {text}"
                )
                draw({span.span_id}, depth + 1)

    draw(set(), 0)
    return "\n".join(lines)


def _values(pairs: list[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in pairs}
