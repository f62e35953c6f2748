"""The export of spans to a collector. Importing this module needs the extra ``otel``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased


def provider_for(
    endpoint: str, *, ratio: float | None, service: str, attributes: Mapping[str, str | int]
) -> TracerProvider:
    """Return a provider that sends its spans: ``http://`` in plain text, ``https://`` by TLS.

    ``ratio`` is the share of the traces begun here that is recorded, 0 to 1; None leaves it to
    OTEL_TRACES_SAMPLER, whose default is all. The resource is ``service``, of the installed
    version, with ``attributes``.
    """
    resource = Resource.create(
        {"service.name": service, "service.version": metadata.version("tq"), **attributes}
    )
    provider = TracerProvider(
        # The environment (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) takes precedence.
        resource=resource.merge(OTELResourceDetector().detect()),
        sampler=None if ratio is None else ParentBased(TraceIdRatioBased(ratio)),
        shutdown_on_exit=False,
    )
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider
