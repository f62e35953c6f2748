"""The relay that passes on only the first part of the answers."""

from __future__ import annotations

import asyncio
import gc

from chaos.abuse.readers import READ_BYTES, Clogged
from tests.patience import PATIENCE_S


class Upstream:
    """A broker that answers without end."""

    def __init__(self) -> None:
        self.open = 0
        self.answered = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await reader.readexactly(1)
            while True:
                writer.write(bytes(64 << 10))
                await writer.drain()
                self.answered += 64 << 10
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


async def test_a_clogged_connection_stays_open_until_the_relay_ends() -> None:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with asyncio.timeout(PATIENCE_S):
        async with Clogged(f"127.0.0.1:{port}") as way:
            reader, writer = await asyncio.open_connection(*way.split(":"))
            writer.write(b"?")
            answer = await reader.readexactly(READ_BYTES)
            before = -1
            while upstream.answered > before:  # until all buffers on the way are full
                before = upstream.answered
                await asyncio.sleep(0.05)
            gc.collect()
            await asyncio.sleep(0.05)
            assert upstream.open == 1
            assert upstream.answered == before
            assert answer == bytes(READ_BYTES)
            del reader

        while upstream.open:  # noqa: ASYNC110 - the other side of a connection
            await asyncio.sleep(0.01)
        writer.transport.abort()
        server.close()
