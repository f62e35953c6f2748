"""A proxy that lets requests through and loses their replies."""

from __future__ import annotations

import asyncio

from chaos.cluster.ports import LOOPBACK
from chaos.cluster.proxy import Proxy
from tests.patience import PATIENCE_S


class Shouter:
    """Answers each line in capitals, and remembers it."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.heard.put_nowait(line)
            writer.write(line.upper())
        writer.close()


async def test_a_muted_proxy_passes_requests_on_and_loses_their_replies() -> None:
    shouter = Shouter()
    server = await asyncio.start_server(shouter.serve, LOOPBACK, 0)
    proxy = Proxy(f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
    host, _, port = (await proxy.start()).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    writer.write(b"first\n")
    heard = await asyncio.wait_for(reader.readline(), PATIENCE_S)
    proxy.muted = True
    writer.write(b"second\n")
    arrived = [await asyncio.wait_for(shouter.heard.get(), PATIENCE_S) for _ in range(2)]
    await asyncio.wait_for(proxy.lost.wait(), PATIENCE_S)
    proxy.cut()
    rest = await asyncio.wait_for(reader.read(), PATIENCE_S)
    await proxy.close()
    server.close()

    assert heard == b"FIRST\n"
    assert arrived == [b"first\n", b"second\n"]
    assert rest == b""


async def test_a_proxy_whose_broker_is_down_ends_the_connection() -> None:
    server = await asyncio.start_server(Shouter().serve, LOOPBACK, 0)
    upstream = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()
    proxy = Proxy(upstream)
    host, _, port = (await proxy.start()).rpartition(":")

    reader, _ = await asyncio.open_connection(host, int(port))
    said = await asyncio.wait_for(reader.read(), PATIENCE_S)
    await proxy.close()

    assert said == b""
