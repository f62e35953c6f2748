"""A TCP proxy between clients and a broker: it can pass requests on and lose their replies."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from chaos.cluster.ports import LOOPBACK

CHUNK = 64 << 10


class Proxy:
    """Passes bytes on to ``upstream``; while muted, drops the replies."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self.muted = False
        self.lost = asyncio.Event()
        """Set once a part of a reply was dropped."""

    async def start(self) -> str:
        """Listen, and return the address to connect to."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"{LOOPBACK}:{port}"

    def cut(self) -> None:
        """End every connection: what was lost on them stays lost."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        while self._passing:
            # A connection that has not reached its broker yet has nothing to cut.
            self.cut()
            await asyncio.wait(self._passing, timeout=0.05)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            # A broker that is down, or a client that went away, is normal for a proxy.
            with suppress(OSError):
                there, back = await asyncio.open_connection(*self._upstream)
                self._writers.add(back)
                try:
                    await self._both_ways(reader, back, there, writer)
                finally:
                    self._writers.discard(back)
                    back.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _both_ways(
        self,
        from_client: asyncio.StreamReader,
        to_broker: asyncio.StreamWriter,
        from_broker: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
    ) -> None:
        """Copy bytes until either side ends."""
        ways = {
            asyncio.create_task(self._pass(from_client, to_broker, replies=False)),
            asyncio.create_task(self._pass(from_broker, to_client, replies=True)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        while data := await reader.read(CHUNK):
            if replies and self.muted:
                self.lost.set()
                continue
            writer.write(data)
            await writer.drain()
