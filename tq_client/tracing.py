"""Traces: a task that is submitted inside an active OpenTelemetry span joins the span's trace.

OpenTelemetry is used only if the caller's program has imported it: otherwise no span can be
active.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tq.v1.task_pb2 import TaskSpec
from tq_client.errors import TqError
from tq_common.traceparents import parse_traceparent
from tq_common.traces import API, active_context, traceparent_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

_VERSION = version("tq")


def current_traceparent() -> str:
    """The "traceparent" of the active span; empty if there is none."""
    context = active_context()
    return "" if context is None else traceparent_of(context)


def traceparent_in(spec: TaskSpec) -> str:
    """The "traceparent" that a spec carries; empty if it is not a valid one."""
    return spec.traceparent if parse_traceparent(spec.traceparent) else ""


def submission() -> Submission:
    """Begin the span of one submit, if the program uses OpenTelemetry."""
    return TracedSubmission() if API in sys.modules else _UNTRACED


class Submission:
    """A submit of a program that does not use OpenTelemetry."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def stamp(self, spec: TaskSpec) -> TaskSpec:
        """Return the spec to submit instead of this one, which is not changed."""
        return spec

    def stamp_all(self, specs: Iterable[TaskSpec]) -> Iterable[TaskSpec]:
        """Do the same for each spec, lazily."""
        return specs

    def answered(self, outcomes: Sequence[str | TqError]) -> None:
        """Note the tasks' ids and errors."""


class TracedSubmission(Submission):
    """A submit with a span, whose context is given to tasks that have none of their own."""

    def __init__(self) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - imported already, by the caller's program

        self._span: Span = _tracer(trace.get_tracer_provider()).start_span(
            "tq submit",
            kind=trace.SpanKind.PRODUCER,
            attributes={
                "messaging.system": "tq",
                "messaging.operation.name": "submit",
                "messaging.operation.type": "send",
            },
        )
        self._failed = trace.StatusCode.ERROR
        self._traceparent = traceparent_of(self._span.get_span_context())
        self._queues: set[str] = set()
        self._types: set[str] = set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._span.is_recording():
            if len(self._queues) == 1:
                self._span.set_attribute("messaging.destination.name", *self._queues)
            if len(self._types) == 1:
                self._span.set_attribute("tq.task.type", *self._types)
            if error is not None:
                self._fail(error, str(error))
        self._span.end()

    def stamp(self, spec: TaskSpec) -> TaskSpec:
        self._queues.add(spec.queue)
        self._types.add(spec.type)
        if spec.traceparent or not self._traceparent:
            return spec
        stamped = TaskSpec()
        stamped.CopyFrom(spec)
        stamped.traceparent = self._traceparent
        return stamped

    def stamp_all(self, specs: Iterable[TaskSpec]) -> Iterator[TaskSpec]:
        return map(self.stamp, specs)

    def answered(self, outcomes: Sequence[str | TqError]) -> None:
        if not self._span.is_recording():
            return
        refused = [outcome for outcome in outcomes if isinstance(outcome, TqError)]
        if len(outcomes) > 1:
            self._span.set_attribute("messaging.batch.message_count", len(outcomes))
            said = f"{len(refused)} of {len(outcomes)} tasks were not created; the first: "
        else:
            said = ""
        if refused:
            self._fail(refused[0], said + str(refused[0]))
        elif len(outcomes) == 1:
            self._span.set_attribute("messaging.message.id", str(outcomes[0]))

    def _fail(self, error: BaseException, said: str) -> None:
        kind = type(error).__name__
        self._span.set_attribute("error.type", getattr(error, "reason", kind))
        self._span.set_status(self._failed, f"{kind}: {said}")


@lru_cache(maxsize=1)
def _tracer(provider: TracerProvider) -> Tracer:
    """Keep the provider's tracer: getting one costs more than a span."""
    return provider.get_tracer("tq_client", _VERSION)


_UNTRACED = Submission()
