"""gRPC's own services, health and reflection: their requests are read a few at a time, like ours.

Their requests name a service, but gRPC would take in 12 MiB for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tq_cluster.service.admission import caller_of
from tq_cluster.service.endings import at_end
from tq_cluster.service.health import HealthServicer
from tq_cluster.service.intake import Intake, SlowRequestError
from tq_cluster.service.reflecting import ReflectionServicer

READS_MAX: Final = 4
REQUEST_BYTES_MAX: Final = 4 << 10
REQUEST_S: Final = 10.0

Asked = TypeVar("Asked", bound=Message)
_Context = Any  # the published types know no asyncio context that reads bytes and writes messages


def add_to(
    server: grpc.aio.Server, health_of: HealthServicer, reflection_of: ReflectionServicer
) -> None:
    """Register both services."""
    reads = _Reads()

    async def check(_requests: object, context: _Context) -> Message:
        at_end(context)
        request = await reads.one(health_pb2.HealthCheckRequest, context, REQUEST_S)
        return await health_of.Check(request, context)

    async def watch(_requests: object, context: _Context) -> None:
        at_end(context)
        request = await reads.one(health_pb2.HealthCheckRequest, context, REQUEST_S)
        await health_of.Watch(request, context)

    async def reflect(_requests: object, context: _Context) -> None:
        at_end(context)
        await reflection_of.ServerReflectionInfo(reads.more(context), context)

    checking: Callable[[object, _Context], Awaitable[Message]] = check
    watching: Callable[[object, _Context], Awaitable[None]] = watch
    reflecting: Callable[[object, _Context], Awaitable[None]] = reflect
    answer = health_pb2.HealthCheckResponse.SerializeToString
    told = reflection_pb2.ServerReflectionResponse.SerializeToString
    services: tuple[tuple[str, dict[str, Any]], ...] = (
        (
            health.SERVICE_NAME,
            {
                "Check": grpc.stream_unary_rpc_method_handler(checking, response_serializer=answer),
                "Watch": grpc.stream_stream_rpc_method_handler(
                    watching, response_serializer=answer
                ),
            },
        ),
        (
            reflection.SERVICE_NAME,
            {
                "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                    reflecting, response_serializer=told
                )
            },
        ),
    )
    for name, handlers in services:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


class _Reads:
    """Reads requests, a few at a time."""

    def __init__(self) -> None:
        self._intake = Intake(READS_MAX)
        self._loop = asyncio.get_running_loop()

    async def one(self, kind: type[Asked], context: _Context, within_s: float) -> Asked:
        """Read the request of a call, or end the call."""
        try:
            raw = await self._raw(context, within_s)
        except SlowRequestError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the request: {error}")
            raise
        if not isinstance(raw, bytes):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call carries no request")
        return await _parsed(kind, raw, context)

    def more(self, context: _Context) -> Callable[[float], Awaitable[Any]]:
        """Return the reader of a stream's next question, or of its end; TimeoutError: none came."""

        async def read(within_s: float) -> Any:  # noqa: ANN401  # a message, or gRPC's end of it
            try:
                raw = await self._raw(context, within_s)
            except SlowRequestError as error:
                raise TimeoutError from error
            if not isinstance(raw, bytes):
                return raw
            return await _parsed(reflection_pb2.ServerReflectionRequest, raw, context)

        return read

    async def _raw(self, context: _Context, within_s: float) -> Any:  # noqa: ANN401  # as above
        peer = context.peer()
        until_s = self._loop.time() + within_s
        return await self._intake.read(caller_of(peer), context.read, until_s, peer)


async def _parsed(kind: type[Asked], raw: bytes, context: _Context) -> Asked:
    if len(raw) > REQUEST_BYTES_MAX:
        message = f"the request has {len(raw):,} bytes; at most {REQUEST_BYTES_MAX:,} are taken"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
    try:
        return kind.FromString(raw)
    except DecodeError:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "the request body could not be parsed"
        )
        raise
