"""The spans that a worker records: attempts, and their reports until they are answered."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import context as active
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from tq.v1.worker_service_pb2 import ClaimedTask, TaskReport
from tq_common.traces import shut_down

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from tq_worker.wire.lease import Lease

FLUSH_S = 1.0
"""How long a leaving process waits for the collector to take its last spans."""

_W3C = TraceContextTextMapPropagator()


def export_to(endpoint: str, ratio: float | None, *, with_handlers: bool) -> Tracing:
    """Record spans and send them to a collector; ``with_handlers``: handlers' own spans, too."""
    # Only to export spans: handlers with a provider of their own need only the API.
    from tq_common.span_export import provider_for  # noqa: PLC0415

    provider = provider_for(
        endpoint, ratio=ratio, service="tq-worker", attributes={"process.pid": os.getpid()}
    )
    if with_handlers:
        trace.set_tracer_provider(provider)
    return Tracing(provider)


class Tracing:
    """Records the spans of attempts and reports; may be used in any thread."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tq_worker", version("tq"))

    def close(self) -> None:
        """Send the last spans, within `FLUSH_S`: a missing collector must not delay the exit."""
        shut_down(self._provider, FLUSH_S)

    def flush(self) -> None:
        """Send the gathered spans, within `FLUSH_S`: this process is about to be killed."""
        force = getattr(self._provider, "force_flush", None)
        if force is not None:
            force(round(FLUSH_S * 1000))

    def begin(self, claimed: ClaimedTask) -> AttemptSpan:
        """Begin an attempt's span, and make it the active one until this context is left."""
        spec = claimed.spec
        span = self._tracer.start_span(
            f"run {spec.type}",
            _below(claimed.traceparent or spec.traceparent),
            SpanKind.CONSUMER,
            _attributes("run", "process", spec.queue, spec.type, spec.task_id, claimed.attempt),
        )
        active.attach(trace.set_span_in_context(span))
        return AttemptSpan(span)

    def killed(self, lease: Lease, cause: str) -> None:
        """Record an attempt whose process ended before it could record it."""
        span = self._tracer.start_span(
            f"run {lease.task_type}",
            _below(lease.traceparent),
            SpanKind.CONSUMER,
            _lease_attributes("run", "process", lease),
            start_time=lease.taken_ns,
        )
        span.set_attribute("error.type", "ProcessDied")
        span.set_status(StatusCode.ERROR, cause)
        span.end()

    def report(self, lease: Lease) -> Span | None:
        """Begin the span of a report, which ends with its answer; None if there is no trace."""
        if not lease.traceparent:
            return None
        return self._tracer.start_span(
            "tq report",
            _below(lease.traceparent),
            SpanKind.CLIENT,
            _lease_attributes("report", "settle", lease),
        )


class AttemptSpan:
    """One handler's run."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._failed = False

    def failed(self, error: BaseException) -> None:
        """Note what the handler raised."""
        self._failed = True
        self._span.record_exception(error)
        self._span.set_attribute("error.type", type(error).__name__)

    def end(self, report: TaskReport) -> None:
        """Note how the attempt ended; the tasks that it submits join its trace."""
        outcome = report.WhichOneof("outcome") or ""
        self._span.set_attribute("tq.attempt.outcome", outcome)
        if outcome == "fail":
            self._span.set_status(StatusCode.ERROR, report.fail.error.partition("\n")[0])
            if not self._failed:
                self._span.set_attribute("error.type", "UnusableResult")
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span))
        for spec in report.complete.submit if outcome == "complete" else ():
            spec.traceparent = spec.traceparent or carrier.get("traceparent", "")
        self._span.end()


def _below(traceparent: str) -> Context:
    return _W3C.extract({"traceparent": traceparent}, active.Context())


def _attributes(
    operation: str, kind: str, queue: str, task_type: str, task_id: str, attempt: int
) -> dict[str, AttributeValue]:
    """Make attributes that follow OpenTelemetry's conventions for messaging systems."""
    return {
        "messaging.system": "tq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
        "tq.task.type": task_type,
        "tq.task.attempt": attempt,
    }


def _lease_attributes(operation: str, kind: str, lease: Lease) -> dict[str, AttributeValue]:
    return _attributes(operation, kind, lease.queue, lease.task_type, lease.task_id, lease.attempt)
