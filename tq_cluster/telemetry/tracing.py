"""Whether this process exports traces, and the trace ids of a log line.

Traces need the extra ``otel``. Nothing of it is imported unless an endpoint is configured.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tq_cluster.errors import StartError

if TYPE_CHECKING:
    from tq_cluster.telemetry.spans import Tracing

_logger = logging.getLogger(__name__)

STANDARD_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own variables, which apply if the configuration names no endpoint."""
_API = "opentelemetry.trace"
_TO_DO = "traces need OpenTelemetry: pip install 'tq[otel]'"


def set_up(
    *,
    otlp_endpoint: str | None,
    ratio: float | None,
    node_id: str,
    environment: Mapping[str, str],
) -> Tracing | None:
    """Begin to export traces; None if they are not configured.

    ``ratio`` is the share of the traces begun here that is recorded; None leaves it to the
    environment (OTEL_TRACES_SAMPLER), whose default is all. StartError if the configuration asks
    for traces and OpenTelemetry is not installed.
    """
    standard = next(filter(None, map(environment.get, STANDARD_ENDPOINTS)), None)
    endpoint = otlp_endpoint or standard
    if endpoint is None:
        return None
    try:
        from tq_cluster.telemetry import spans  # noqa: PLC0415 - imports OpenTelemetry
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        if otlp_endpoint is not None:
            raise StartError(f"tracing.otlp_endpoint is {endpoint}, and {_TO_DO}") from None
        # A variable for all programs of a host does not request traces of this one.
        _logger.warning("no traces are exported", extra={"endpoint": endpoint, "why": _TO_DO})
        return None
    return spans.export_to(endpoint, ratio=ratio, node_id=node_id)


def active_ids() -> dict[str, str]:
    """Return the ids of the span that is active here, as keys of a log line."""
    if _API not in sys.modules:
        return {}
    from opentelemetry import trace  # noqa: PLC0415 - imported already

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }
