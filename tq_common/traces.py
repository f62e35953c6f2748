"""Traces, as far as they need no OpenTelemetry: the active span, and where spans are sent.

OpenTelemetry is used only if the program has imported it: otherwise no span can be active.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

STANDARD_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own variables, which apply if the configuration names no endpoint."""
TO_DO: Final = "traces need OpenTelemetry: pip install 'tq[otel]'"
API: Final = "opentelemetry.trace"
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.grpc"


def traceparent_of(context: SpanContext) -> str:
    """Write a span's context as a W3C "traceparent"; empty if it belongs to no trace."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def active_context() -> SpanContext | None:
    """Return the context of the active span; None if there is none."""
    if API not in sys.modules:
        return None
    from opentelemetry import trace  # noqa: PLC0415 - imported already, by the program

    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def active_ids() -> dict[str, str]:
    """Return the ids of the active span, as keys of a log line; empty if there is none."""
    context = active_context()
    if context is None:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def standard_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return the collector that OpenTelemetry's own variables name; None if they name none."""
    return next(filter(None, map(environment.get, STANDARD_ENDPOINTS)), None)


def installed() -> bool:
    """Whether spans can be exported."""
    try:
        return find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        return False


def shut_down(provider: object, within_s: float) -> None:
    """Have a provider send its last spans, for at most ``within_s``.

    A collector that is gone does not delay the exit. A provider that has nothing to shut down, as
    a handler's own may have, is left alone.
    """
    end = getattr(provider, "shutdown", None)
    if end is None:
        return
    # A daemon: the process need not wait for it either.
    sending = threading.Thread(target=end, name="last spans", daemon=True)
    sending.start()
    sending.join(within_s)
