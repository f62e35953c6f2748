"""Whether this process exports traces.

Traces need the extra ``otel``. Nothing of it is imported unless an endpoint is configured.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tq_cluster.errors import StartError
from tq_common.traces import TO_DO, standard_endpoint

if TYPE_CHECKING:
    from tq_cluster.telemetry.spans import Tracing

_logger = logging.getLogger(__name__)


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
    endpoint = otlp_endpoint or standard_endpoint(environment)
    if endpoint is None:
        return None
    try:
        from tq_cluster.telemetry import spans  # noqa: PLC0415 - imports OpenTelemetry
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        if otlp_endpoint is not None:
            raise StartError(f"tracing.otlp_endpoint is {endpoint}, and {TO_DO}") from None
        # A variable for all programs of a host does not request traces of this one.
        _logger.warning("no traces are exported", extra={"endpoint": endpoint, "why": TO_DO})
        return None
    return spans.export_to(endpoint, ratio=ratio, node_id=node_id)
