"""The gRPC server of a node: every service behind one router."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from tq_cluster.errors import StartError
from tq_cluster.service import standard
from tq_cluster.service.call import ConversationMethod, Method, StreamMethod
from tq_cluster.service.entrance import Context
from tq_cluster.service.health import Health
from tq_cluster.service.limits import (
    SERVER_OPTIONS,
    SERVER_OPTIONS_FOR_NODES,
    limits_on_connections,
)
from tq_cluster.service.reflecting import ReflectionServicer
from tq_cluster.service.routing import Router

CALLS_END_S = 1.0
REGISTERED = frozenset(
    {"Submit", "GetTask", "WaitTask", "CancelTask", "Claim", "Heartbeat", "Report", "Converse"}
)
"""The methods that are delivered apart from the others: those that clients and workers call all the
time. Each of them costs every call a little.
"""

_Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[bytes, bytes]]"


class Servicer(Protocol):
    """One service of the API."""

    name: str

    def methods(self) -> Sequence[Method | StreamMethod | ConversationMethod]:
        """Return the methods of the service."""


def build_server(
    servicers: Sequence[Servicer], router: Router, health_of: Health, *, connections_max: int
) -> grpc.aio.Server:
    """Put a server together; it listens once bound and started."""
    server = grpc.aio.server(options=[*SERVER_OPTIONS, *limits_on_connections(connections_max)])
    for servicer in servicers:
        handlers = {
            method.name: _raw_handler(router, method, f"/{servicer.name}/{method.name}")
            for method in servicer.methods()
        }
        _register(server, servicer.name, handlers)
    names = [servicer.name for servicer in servicers]
    reflection_of = ReflectionServicer((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
    standard.add_to(server, health_of.servicer, reflection_of)
    return server


def build_server_for_nodes(
    servicers: Sequence[Servicer], router: Router, *, connections_max: int
) -> grpc.aio.Server:
    """Put together the server that only takes calls which other nodes forward."""
    options = [*SERVER_OPTIONS_FOR_NODES, *limits_on_connections(connections_max)]
    server = grpc.aio.server(options=options)
    for servicer in servicers:
        handlers = {
            method.name: _raw_handler(
                router, method, f"/{servicer.name}/{method.name}", from_nodes=True
            )
            for method in servicer.methods()
            if isinstance(method, Method)
        }
        _register(server, servicer.name, handlers)
    return server


def _register(server: grpc.aio.Server, service: str, handlers: _Handlers) -> None:
    """Have a service's methods answered.

    gRPC delivers one call at a time, some six turns of the event loop each: on a busy node, less
    than a hundred a second. Calls of registered methods are delivered in parallel, one of each
    method: so a storm of one kind of call holds up only that kind.
    """
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    at_once = {name: handlers[name] for name in handlers if name in REGISTERED}
    server.add_registered_method_handlers(service, at_once)


def bind(server: grpc.aio.Server, address: str, what: str = "the API") -> int:
    """Listen at ``address``; return the port. StartError if that fails."""
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(
            f"{what} cannot listen at {address}: in use, or not an address of this machine"
        ) from error


async def calls_ended() -> None:
    """Wait until gRPC is done with every call of this event loop, for ``CALLS_END_S`` at most.

    A server has stopped once its calls are over for their callers; a cancelled one may still be on
    its way out of its handler. gRPC writes a traceback if the loop ends before that.
    """
    calls = {task for task in asyncio.all_tasks() if _is_call(task)}
    if calls:
        await asyncio.wait(calls, timeout=CALLS_END_S)


def _is_call(task: asyncio.Task[object]) -> bool:
    # Its name inside grpcio; if that changes, this waits for nothing.
    return getattr(task.get_coro(), "__qualname__", "") == "_schedule_rpc_coro"


def _raw_handler(
    router: Router,
    method: Method | StreamMethod | ConversationMethod,
    path: str,
    *,
    from_nodes: bool = False,
) -> grpc.RpcMethodHandler[bytes, bytes]:
    # No deserializers: bytes in, bytes out. Registered as if requests were streams, which are the
    # same on the wire: gRPC reads nothing of a stream before it is asked to.
    if isinstance(method, ConversationMethod):
        conversation = method

        async def converse(_requests: object, context: Context) -> None:
            await conversation.handle(context)

        conversing: Callable[[object, Context], Awaitable[None]] = converse
        return grpc.stream_stream_rpc_method_handler(conversing)
    if isinstance(method, StreamMethod):
        streamed = method

        async def stream(_requests: object, context: Context) -> None:
            await router.stream(streamed, path, context)

        streaming: Callable[[object, Context], Awaitable[None]] = stream
        return grpc.stream_stream_rpc_method_handler(streaming)
    unary = method

    async def answer(_requests: object, context: Context) -> bytes:
        return await router.answer(unary, path, context, from_nodes=from_nodes)

    answering: Callable[[object, Context], Awaitable[bytes]] = answer
    return grpc.stream_unary_rpc_method_handler(answering)
