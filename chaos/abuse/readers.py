"""Readers that stop reading: the broker must keep or drop what it cannot deliver."""

from __future__ import annotations

import asyncio
import math
import uuid
from contextlib import suppress

from chaos.abuse.target import QUEUE, Target, connection, raw_call, together
from tq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

PAYLOAD_BYTES = 9_900_000
STREAMS = 60
CALL_S = 20.0
READ_BYTES = 256 << 10
"""How many bytes of the answers a slow reader reads before it stops."""
WAIT_PATH = "/tq.v1.TaskService/WaitTask"
GET_PATH = "/tq.v1.TaskService/GetTask"


class Clogged:
    """A relay to a broker that passes on all requests, but only the first part of the answers."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._server: asyncio.Server
        # Once its caller has gone, nothing else refers to a task that waits for the broker.
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        """Listen, and return the address to connect to."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                there, back = await asyncio.open_connection(*self._upstream)
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(_pump(reader, back))
                        both.create_task(_pump(there, writer, READ_BYTES))
                finally:
                    back.transport.abort()
        finally:
            writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: float = math.inf
) -> None:
    """Pass on about as many bytes as ``most``, then read no more."""
    with suppress(OSError):
        while most > 0 and (data := await reader.read(16 << 10)):
            most -= len(data)
            writer.write(data)
            await writer.drain()


async def slow(target: Target) -> None:
    """Ask for a large task by very many calls a connection, and read none of the answers."""
    task_id = await submit_large(target)
    get = task_service_pb2.GetTaskRequest(task_id=task_id).SerializeToString()
    wait = task_service_pb2.WaitTaskRequest(task_id=task_id).SerializeToString()
    target.under_way()

    async def ask(address: str, path: str, raw: bytes) -> None:
        while True:
            # The deadline ends a round; the next one begins on a connection of its own.
            async with Clogged(address) as way, connection(way) as channel:
                calls = [raw_call(channel, path, raw, CALL_S) for _ in range(STREAMS)]
                await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(0.2)

    await together(
        [
            ask(address, path, raw)
            for address in target.api
            for path, raw in ((GET_PATH, get), (WAIT_PATH, wait))
        ]
    )


async def submit_large(target: Target) -> str:
    """Submit a task as large as one may be, nearly; return its id."""
    task = task_pb2.TaskSpec(queue=f"{QUEUE}-large", type="t", payload=bytes(PAYLOAD_BYTES))
    request = task_service_pb2.SubmitRequest(request_id=uuid.uuid4().hex, tasks=[task])
    async with connection(target.api[0]) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        reply = await stub.Submit(request, timeout=30, wait_for_ready=True)
    return str(reply.results[0].task.task_id)
