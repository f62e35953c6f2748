"""A name server on loopback that gives every name one address, which may change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

HEADER_BYTES = 12
A_RECORD = 1
# The name asked for (a pointer to it), type A, class IN, no time to live, four bytes.
ANSWER = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04"


class NameServer(asyncio.DatagramProtocol):
    """Answers queries for an IPv4 address, and no other kind."""

    def __init__(self, address: str) -> None:
        self.address = address
        """The address of every name."""
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        end = data.index(b"\0", HEADER_BYTES) + 5
        known = int.from_bytes(data[end - 4 : end - 2], "big") == A_RECORD
        answers = ANSWER + socket.inet_aton(self.address) if known else b""
        flags = b"\x84\x00\x00\x01" + known.to_bytes(2, "big") + bytes(4)
        self._transport.sendto(data[:2] + flags + data[HEADER_BYTES:end] + answers, addr)


@asynccontextmanager
async def name_server(address: str) -> AsyncIterator[tuple[NameServer, str]]:
    """Serve names; yields the server and the prefix of a gRPC target that uses it."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(address), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server, f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/"
    finally:
        transport.close()
