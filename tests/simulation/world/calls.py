"""Modelled gRPC: calls between processes, over the modelled network, with deadlines.

Messages arrive in order, late if the way is blocked, and even after their caller has given up. A
caller learns that a process died, but not that a machine lost its power.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from grpc import aio

from tests.simulation.world.network import ModelledNetwork
from tests.simulation.world.virtual_loop import HostLoop

Metadata = Sequence[tuple[str, str | bytes]]
Answer = Callable[[str, "ServedCall"], Awaitable[bytes]]
"""Path and call to reply: a node's router."""


class AbortedError(Exception):
    """What ``abort`` raises, as gRPC does."""


class Reply(asyncio.Future[bytes]):
    """A call as its caller sees it: the part of gRPC's UnaryUnaryCall that is used."""

    trailing: Metadata = ()

    async def trailing_metadata(self) -> Metadata:
        return self.trailing


@dataclass
class ServedCall:
    """A call as its server sees it: the part of gRPC's ServicerContext that is used."""

    loop: HostLoop
    source: str
    raw: bytes
    deadline_s: float
    sent: Metadata
    failure: aio.AioRpcError | None = None
    trailing: Metadata = ()

    ended: list[Callable[[object], None]] = field(default_factory=list)

    def invocation_metadata(self) -> Metadata:
        return self.sent

    def peer(self) -> str:
        return f"{self.source}:0"

    async def read(self) -> bytes:
        return self.raw

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self.ended.append(callback)

    def time_remaining(self) -> float:
        return max(0.0, self.deadline_s - self.loop.time())

    def set_trailing_metadata(self, trailing: Metadata) -> None:
        self.trailing = trailing

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> NoReturn:
        self.failure = failed(code, details, trailing)
        raise AbortedError


def failed(code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> aio.AioRpcError:
    """A failed call as its caller sees it."""
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing), details)


@dataclass
class Server:
    """A process that answers calls."""

    name: str
    loop: HostLoop
    answer: Answer


@dataclass(eq=False)
class _Exchange:
    """One call on its way, there or back."""

    source: str
    client: HostLoop
    server: Server
    reply: Reply
    task: asyncio.Task[bytes] | None = None

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(failed(code, details))


@dataclass
class _Pipe:
    """One direction between two processes: messages arrive in order."""

    network: ModelledNetwork
    source: str
    target: str
    waiting: deque[Callable[[], None]] = field(default_factory=deque)
    free_s: float = 0.0

    def send(self, arrive: Callable[[], None]) -> None:
        self.waiting.append(arrive)
        self.free_s = max(self.free_s, self.network.loop.time() + self.network.latency_s())
        self.network.loop.call_at(self.free_s, self.pump)

    def pump(self) -> None:
        """Deliver the messages whose delay is over."""
        if (self.source, self.target) in self.network.conditions.blocked or not self.waiting:
            return
        self.waiting.popleft()()

    def pump_all(self) -> None:
        """Deliver the messages that a blocked way held up."""
        while self.waiting and (self.source, self.target) not in self.network.conditions.blocked:
            self.pump()


class ModelledCalls:
    """All calls between processes."""

    def __init__(self, network: ModelledNetwork) -> None:
        self._network = network
        self._servers: dict[str, Server] = {}
        self._pipes: dict[tuple[str, str], _Pipe] = {}
        self._exchanges: dict[_Exchange, None] = {}
        network.on_way_free.append(self._pump_all)
        network.on_links_broken.append(self._break)

    # ------------------------------------------------------------------ who answers

    def serve(self, address: str, server: Server) -> None:
        """Answer calls to ``address`` from now on."""
        self._servers[address] = server

    def reachable(self, source: str, address: str) -> bool:
        """Whether a connection is possible."""
        server = self._servers.get(address)
        blocked = self._network.conditions.blocked
        return server is not None and not {
            (source, server.name),
            (server.name, source),
        }.intersection(blocked)

    def died(self, name: str, *, silently: bool) -> None:
        """Handle the end of a process or of its machine."""
        self._servers = {a: server for a, server in self._servers.items() if server.name != name}
        for exchange in list(self._exchanges):
            if name == exchange.source:
                self._forget(exchange, told=not silently)
            elif name == exchange.server.name and not silently:
                self._lost(exchange)

    # ------------------------------------------------------------------ calls

    def call(
        self,
        source: str,
        client: HostLoop,
        address: str,
        path: str,
        raw: bytes,
        *,
        timeout_s: float,
        metadata: Metadata = (),
    ) -> Reply:
        """Call ``path`` at ``address``; the future fails as a gRPC call does."""
        reply = Reply(loop=client.create_future().get_loop())
        server = self._servers.get(address)
        if server is None:
            reply.set_exception(failed(grpc.StatusCode.UNAVAILABLE, "connection refused"))
            return reply
        exchange = _Exchange(source, client, server, reply)
        self._exchanges[exchange] = None
        deadline = client.call_later(
            timeout_s, exchange.fail, grpc.StatusCode.DEADLINE_EXCEEDED, "deadline"
        )

        def ended(_: asyncio.Future[bytes]) -> None:
            deadline.cancel()
            self._forget(exchange, told=True)

        reply.add_done_callback(ended)
        self._pipe(source, server.name).send(
            lambda: server.loop.arrived(
                lambda: self._begin(exchange, path, raw, timeout_s, metadata)
            )
        )
        return reply

    def _begin(
        self, exchange: _Exchange, path: str, raw: bytes, timeout_s: float, metadata: Metadata
    ) -> None:
        server = exchange.server
        deadline_s = server.loop.time() + timeout_s
        served = ServedCall(server.loop, exchange.source, raw, deadline_s, metadata)
        task = exchange.task = server.loop.create_task(self._answer(server, path, served))

        def done(task: asyncio.Task[bytes]) -> None:
            for ended in served.ended:
                ended(served)
            if task.cancelled():
                return
            error = task.exception()
            if error is not None and not isinstance(error, AbortedError):
                raise error
            self._pipe(server.name, exchange.source).send(
                lambda: exchange.client.arrived(lambda: self._end(exchange, task, served))
            )

        task.add_done_callback(done)
        if exchange not in self._exchanges:
            task.cancel()

    @staticmethod
    async def _answer(server: Server, path: str, served: ServedCall) -> bytes:
        return await server.answer(path, served)

    @staticmethod
    def _end(exchange: _Exchange, task: asyncio.Task[bytes], served: ServedCall) -> None:
        if exchange.reply.done():
            return
        if served.failure is not None:
            exchange.reply.set_exception(served.failure)
        else:
            exchange.reply.trailing = served.trailing
            exchange.reply.set_result(task.result())

    def _forget(self, exchange: _Exchange, *, told: bool) -> None:
        """Drop a call that its caller gave up; the server learns that later, and cancels it."""
        if self._exchanges.pop(exchange, 0) == 0 or not told:
            return
        server = exchange.server
        self._pipe(exchange.source, server.name).send(
            lambda: server.loop.arrived(lambda: _cancel(exchange.task))
        )

    def _lost(self, exchange: _Exchange) -> None:
        def tell() -> None:
            exchange.client.arrived(
                lambda: exchange.fail(grpc.StatusCode.UNAVAILABLE, "connection lost")
            )

        self._network.loop.call_later(self._network.latency_s(), tell)

    def _break(self, one: str, other: str) -> None:
        for exchange in list(self._exchanges):
            if {exchange.source, exchange.server.name} == {one, other}:
                self._lost(exchange)

    # ------------------------------------------------------------------ ways

    def _pipe(self, source: str, target: str) -> _Pipe:
        pipe = self._pipes.get((source, target))
        if pipe is None:
            pipe = self._pipes[source, target] = _Pipe(self._network, source, target)
        return pipe

    def _pump_all(self) -> None:
        for pipe in self._pipes.values():
            pipe.pump_all()


class ModelledLinks:
    """A node's connections to the other nodes' APIs: what ``service.links.Links`` is on gRPC."""

    def __init__(self, calls: ModelledCalls, name: str, loop: HostLoop) -> None:
        self._calls = calls
        self._name = name
        self._loop = loop

    async def connected(self, address: str, within_s: float) -> bool:
        if not self._calls.reachable(self._name, address):
            await asyncio.sleep(within_s)
        return self._calls.reachable(self._name, address)

    def large(self, address: str, path: str) -> Callable[..., Reply]:
        return self.method(address, path)

    def method(self, address: str, path: str) -> Callable[..., Reply]:
        def send(raw: bytes, *, timeout: float, metadata: Metadata) -> Reply:
            return self._calls.call(
                self._name,
                self._loop,
                address,
                path,
                raw,
                timeout_s=timeout,
                metadata=metadata,
            )

        return send


def _cancel(task: asyncio.Task[bytes] | None) -> None:
    if task is not None:
        task.cancel()
