"""The RPCs that a broker answers, as the generated descriptors name them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import tq.v1
from tq.v1 import options_pb2

SERVICE_SUFFIX = "_service_pb2"


def methods() -> Iterator[MethodDescriptor]:
    """Yield every method of every service, including the services that are not our own."""
    modules = [
        importlib.import_module(f"{tq.v1.__name__}.{found.name}")
        for found in pkgutil.iter_modules(tq.v1.__path__)
        if found.name.endswith(SERVICE_SUFFIX)
    ]
    for module in (*modules, health_pb2, reflection_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def request_bytes_max(method: MethodDescriptor) -> int | None:
    """Return the largest request of a method by its options; None: the limit of the wire."""
    policy = method.GetOptions().Extensions[options_pb2.policy]
    return policy.request_bytes_max or None


def path_of(method: MethodDescriptor) -> str:
    """Return a method's path as a call names it."""
    return f"/{method.containing_service.full_name}/{method.name}"
