"""The relay that passes on only the first part of the answers."""

from __future__ import annotations

import asyncio
import gc

from chaos.abuse.readers import Clogged
from tests.patience import PATIENCE_S


class Upstream:
    """A broker that answers a little, and then keeps its caller waiting."""

    def __init__(self) -> None:
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await reader.readexactly(1)
            writer.write(b"!")
            while await reader.read(1):
                pass
        except OSError:
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


def pumps() -> int:
    """How many directions of connections the relay still serves."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    return sum(getattr(each, "__qualname__", "") == "_pump" for each in coroutines)


async def test_a_relay_waits_for_the_broker_after_its_caller_has_gone_and_ends_in_order() -> None:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    complaints: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))

    async with asyncio.timeout(PATIENCE_S):
        async with Clogged(f"127.0.0.1:{port}") as way:
            reader, writer = await asyncio.open_connection(*way.split(":"))
            writer.write(b"?")
            assert await reader.readexactly(1) == b"!"
            before = pumps()
            writer.transport.abort()
            while pumps() == before:  # noqa: ASYNC110 - the relay notices that its caller has gone
                await asyncio.sleep(0.01)
            gc.collect()  # which complains at once of a task that it destroys
            assert complaints == []
            assert upstream.open == 1

        while upstream.open:  # noqa: ASYNC110 - the other side of a connection
            await asyncio.sleep(0.01)
        server.close()

    assert complaints == []
