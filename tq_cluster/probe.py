"""Queries a broker's health service, as a container's health check does."""

from __future__ import annotations

import os
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tq_common.grpc_causes import cause_of

# gRPC's C core logs to standard error; what matters of its lines is in the answer.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))


def ask(address: str, service: str, timeout_s: float) -> tuple[bool, str]:
    """Return whether ``service`` is served at ``address``, and the answer in words.

    The empty name stands for everything that needs a leader. A broker that stopped, is stopping, or
    sees no leader does not serve.
    """
    request = health_pb2.HealthCheckRequest(service=service)
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its published types have no methods
        try:
            reply = stub.Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)  # a unary call's error is the call itself
            if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return False, f"no answer within {timeout_s:g} s"
            return False, f"{call.code().name}: {cause_of(call.details() or '')}"
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return reply.status == health_pb2.HealthCheckResponse.SERVING, status
