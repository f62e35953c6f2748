"""The spans that a broker records: of calls, and of their effects on the tasks of each trace.

Recording one takes 25 to 50 microseconds of the event loop; a thread sends them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)
from opentelemetry.util.types import AttributeValue

from tq.v1 import task_pb2, task_service_pb2, worker_service_pb2
from tq_common.span_export import provider_for
from tq_common.traceparents import parse_traceparent
from tq_common.traces import shut_down, traceparent_of

TRACES_MAX = 128
"""The most tasks of one call that get a span: more would hold the event loop too long."""
FLUSH_S = 2.0
"""How long a stopping node waits for the collector to take its last spans."""
_NS = 1_000_000_000

_SUBMITS = frozenset({"Submit", "SubmitTogether"})
"""The methods that begin a trace for their tasks."""
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def export_to(endpoint: str, *, ratio: float | None, node_id: str) -> Tracing:
    """Record spans and send them to a collector."""
    provider = provider_for(
        endpoint,
        ratio=ratio,
        service="tq-cluster",
        attributes={"service.instance.id": node_id},
    )
    return Tracing(provider, metadata.version("tq"))


def parse(traceparent: str) -> SpanContext | None:
    """Parse a W3C trace context; None for anything else."""
    match = parse_traceparent(traceparent)
    if match is None:
        return None
    context = SpanContext(
        int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=_flags(match[3])
    )
    return context if context.is_valid else None


class Tracing:
    """Records spans of this node for tasks whose trace is sampled."""

    def __init__(self, provider: TracerProvider, version: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tq_cluster", version)

    async def close(self) -> None:
        """Send the remaining spans, for a moment: a collector that is gone delays nothing."""
        await asyncio.to_thread(shut_down, self._provider, FLUSH_S)

    @contextmanager
    def call(
        self, method: str, path: str, traceparent: str, reason_of: Callable[[BaseException], str]
    ) -> Iterator[str]:
        """Record a call, and yield the trace context for its effects.

        A call that belongs to no trace is recorded only if it submits tasks: then it begins their
        trace. ``reason_of`` names the caller's reason for a failure.
        """
        parent = parse(traceparent)
        begins = parent is None and method in _SUBMITS
        if not begins and (parent is None or not _sampled(parent)):
            yield traceparent
            return
        service = path.strip("/").partition("/")[0]
        span = self._tracer.start_span(
            f"tq.{_WORD.sub('_', method).lower()}",
            _below(parent),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        if not span.is_recording():
            yield traceparent
            return
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield traceparent_of(span.get_span_context())
        except BaseException as error:
            span.set_attribute("error.type", reason_of(error))
            span.set_status(StatusCode.ERROR, str(error))
            raise
        finally:
            span.end()

    def submitted(
        self,
        specs: Sequence[task_pb2.TaskSpec],
        results: Sequence[task_service_pb2.SubmitResult],
        spent_s: float,
    ) -> None:
        """Record a submit in the trace of each task that it created.

        Tasks of several callers share a call, which is recorded in the first one's trace.
        """
        call = trace.get_current_span()
        own = call.get_span_context()
        if call.is_recording():
            call.set_attributes(_of_tasks("submit", "send", specs))
            if len(results) == 1:
                call.set_attribute("messaging.message.id", results[0].task.task_id)
        links = [Link(own)] if own.is_valid else []
        ended_ns = time.time_ns()
        seen: set[str] = set()
        for spec, result in zip(specs, results, strict=True):
            if not spec.traceparent or spec.traceparent in seen or len(seen) >= TRACES_MAX:
                continue
            seen.add(spec.traceparent)
            parent = parse(spec.traceparent)
            if parent is None or not _sampled(parent) or parent.trace_id == own.trace_id:
                continue
            attributes = _of_tasks("submit", "send", [spec])
            attributes["messaging.message.id"] = result.task.task_id
            began_ns = ended_ns - int(spent_s * _NS)
            span = self._tracer.start_span(
                "tq.submit", _below(parent), SpanKind.SERVER, attributes, links, began_ns
            )
            if result.HasField("error"):
                span.set_status(StatusCode.ERROR, result.error.message)
            span.end(ended_ns)

    def granted(
        self, worker_id: str, reply: worker_service_pb2.ClaimResponse, spent_s: float
    ) -> None:
        """Record each lease in its task's trace, and pass the span to the worker.

        ``spent_s`` is how long ago the call that granted them came.
        """
        ended_ns = time.time_ns()
        recorded = 0
        for task in reply.tasks:
            if not task.spec.traceparent or recorded >= TRACES_MAX:
                continue
            parent = parse(task.spec.traceparent)
            if parent is None or not _sampled(parent):
                continue
            recorded += 1
            # The call's wait for this task is not part of the grant, and neither is the time before
            # the task existed.
            waited_ns = task.waited.ToNanoseconds()
            began_ns = ended_ns - max(0, int(spent_s * _NS) - waited_ns)
            began_ns = min(max(began_ns, task.submitted_at.ToNanoseconds()), ended_ns)
            attributes = _of_tasks("claim", "receive", [task.spec])
            attributes |= {
                "messaging.message.id": task.spec.task_id,
                "tq.task.attempt": task.attempt,
                "tq.worker.id": worker_id,
            }
            span = self._tracer.start_span(
                "tq.claim", _below(parent), SpanKind.SERVER, attributes, None, began_ns
            )
            span.end(ended_ns)
            task.traceparent = traceparent_of(span.get_span_context())


def _below(parent: SpanContext | None) -> Context:
    """Return the parent of a span, ignoring what is active here; None: in a new trace."""
    root = Context()
    return root if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), root)


def _of_tasks(
    operation: str, kind: str, tasks: Sequence[task_pb2.TaskSpec]
) -> dict[str, AttributeValue]:
    """Return the attributes of OpenTelemetry's conventions for messaging systems."""
    attributes: dict[str, AttributeValue] = {
        "messaging.system": "tq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }
    queues = {task.queue for task in tasks}
    types = {task.type for task in tasks}
    if len(queues) == 1:
        attributes["messaging.destination.name"] = queues.pop()
    if len(types) == 1:
        attributes["tq.task.type"] = types.pop()
    if len(tasks) > 1:
        attributes["messaging.batch.message_count"] = len(tasks)
    return attributes


def _sampled(context: SpanContext) -> bool:
    return bool(context.trace_flags & TraceFlags.SAMPLED)


def _flags(text: str) -> TraceFlags:
    return TraceFlags(int(text, 16))
