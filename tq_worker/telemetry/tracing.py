"""Whether a worker records traces, and which one a log line belongs to.

Traces need the extra ``otel``. Nothing of it is imported unless an endpoint is named, or handlers
import it themselves.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tq_common import traces
from tq_common.traceparents import trace_id_of
from tq_common.traces import TO_DO, installed
from tq_worker.api.context import current_task

if TYPE_CHECKING:
    from tq_worker.telemetry.spans import Tracing

__all__ = ["TO_DO", "Telling", "active_ids", "installed", "set_up", "trace_of"]

_logger = logging.getLogger(__name__)

_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What a worker logs and traces; handler processes inherit it through the environment."""

    otlp_endpoint: str | None = None
    """The collector that traces are sent to."""
    ratio: float | None = None
    """The share of the traces begun here that is recorded, 0 to 1; None: all."""
    log_tasks: bool = False
    """Whether the start and the end of each attempt are logged."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Telling:
        """Read the variables that `environment` wrote."""
        ratio = environment.get("TQ_TRACING_RATIO")
        return cls(
            otlp_endpoint=environment.get("TQ_OTLP_ENDPOINT") or None,
            ratio=float(ratio) if ratio else None,
            log_tasks=environment.get("TQ_LOG_TASKS", "").lower() in _TRUE,
        )

    def environment(self) -> dict[str, str]:
        """Return environment variables for handler processes."""
        return {
            "TQ_OTLP_ENDPOINT": self.otlp_endpoint or "",
            "TQ_TRACING_RATIO": "" if self.ratio is None else repr(self.ratio),
            "TQ_LOG_TASKS": "true" if self.log_tasks else "false",
        }


def set_up(
    telling: Telling, environment: Mapping[str, str], *, with_handlers: bool = False
) -> Tracing | None:
    """Begin to record traces; None if no endpoint is set.

    ``with_handlers``: the handlers' own spans are exported as well. If handlers have set up
    OpenTelemetry themselves, the worker's spans go to their provider instead.
    """
    if with_handlers and (own := _of_handlers()) is not None:
        return own
    endpoint = telling.otlp_endpoint or traces.standard_endpoint(environment)
    if endpoint is None:
        return None
    if not installed():
        _logger.warning("no traces are exported", extra={"endpoint": endpoint, "why": TO_DO})
        return None
    from tq_worker.telemetry import spans  # noqa: PLC0415 - imports OpenTelemetry

    return spans.export_to(endpoint, telling.ratio, with_handlers=with_handlers)


def active_ids() -> dict[str, str]:
    """The ids of the active span, or of the current task's trace, as keys of a log line."""
    active = traces.active_ids()
    if active:
        return active
    running = current_task()
    return trace_of(running.traceparent) if running is not None else {}


def trace_of(traceparent: str) -> dict[str, str]:
    """The id of the trace that a task belongs to, as a key of a log line."""
    trace_id = trace_id_of(traceparent)
    return {"trace_id": trace_id} if trace_id else {}


def _of_handlers() -> Tracing | None:
    if traces.API not in sys.modules:
        return None
    from opentelemetry import trace  # noqa: PLC0415 - imported already

    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        return None
    from tq_worker.telemetry import spans  # noqa: PLC0415 - imports OpenTelemetry

    return spans.Tracing(provider)
