"""Makes connections: over TCP in a node, over a modelled network in a simulation."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from tq_cluster.raft.accepting import AcceptRates, Refused, ignored, rated
from tq_cluster.raft.resolving import Resolver
from tq_common import addresses
from tq_process.accepting import listening_sockets


class Network(Protocol):
    """Listens and dials. Addresses are ``host:port``."""

    async def listen(
        self, address: str, factory: Callable[[], asyncio.Protocol]
    ) -> Callable[[], None]:
        """Accept connections until the returned function is called. Raises OSError."""

    def dial(
        self, address: str, protocol: asyncio.Protocol, failed: Callable[[OSError], None]
    ) -> Callable[[], None]:
        """Connect ``protocol`` or call ``failed``; the returned function silently gives up."""

    def trust(self, host: str) -> None:
        """A peer was admitted from that address: accept connections from it at a higher rate."""


class TcpNetwork:
    """TCP on the running event loop."""

    def __init__(
        self,
        dial_timeout_s: float = 0.5,
        resolver: Resolver | None = None,
        refused: Refused = ignored,
    ) -> None:
        """Give a dial ``dial_timeout_s``: less than TCP's first wait for an answer, 1 s (RFC 6298).

        So nodes that a partition kept apart connect soon after it ends. ``refused`` is called for
        connections that are not accepted (see ``rated``).
        """
        self._dial_timeout_s = dial_timeout_s
        self._resolver = resolver or Resolver()
        self._refused = refused
        self._rates = AcceptRates(asyncio.get_running_loop().time)

    async def listen(
        self, address: str, factory: Callable[[], asyncio.Protocol]
    ) -> Callable[[], None]:
        sockets = await listening_sockets(*addresses.split(address))
        return rated(sockets, factory, self._rates, self._refused).close

    def dial(
        self, address: str, protocol: asyncio.Protocol, failed: Callable[[OSError], None]
    ) -> Callable[[], None]:
        attempt = asyncio.get_running_loop().create_task(self._connect(address, protocol, failed))
        return lambda: _cancel(attempt)

    def trust(self, host: str) -> None:
        self._rates.trust(host)

    async def _connect(
        self, address: str, protocol: asyncio.Protocol, failed: Callable[[OSError], None]
    ) -> None:
        host, port = addresses.split(address)
        try:
            async with asyncio.timeout(self._dial_timeout_s):
                await self._connect_to_any(host, port, protocol)
        except OSError as error:  # TimeoutError is one
            failed(error)

    async def _connect_to_any(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        loop = asyncio.get_running_loop()
        *others, last = await self._resolver.addresses(host)
        for each in others:
            try:
                await loop.create_connection(lambda: protocol, each, port)
            except OSError:
                continue
            return
        await loop.create_connection(lambda: protocol, last, port)


def set_no_delay(transport: asyncio.BaseTransport) -> None:
    """Send small messages at once, if the transport has a socket."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _cancel(attempt: asyncio.Task[None]) -> None:
    attempt.cancel()
