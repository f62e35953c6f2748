"""NATS JetStream: one stream with three replicas, a pull consumer for each queue."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from benchmarks.peers.processes import START_S, Servers, need, python_worker
from benchmarks.peers.session import PAYLOAD, TO_DONE_S, AsyncSession
from benchmarks.peers.workloads import DONE, DRAINED, SUBMITTED
from chaos.cluster.ports import free_addresses

STREAM = "bench"
REPLY = "tq-reply"
IN_HAND = 500


class JetStreamSession(AsyncSession):
    """A connection to the leader of the stream."""

    calls_of_many = False

    def __init__(self, connection: Any, url: str, folder: Path) -> None:  # noqa: ANN401  # untyped
        self._connection = connection
        self._stream = connection.jetstream(timeout=TO_DONE_S)
        self._url = url
        self._folder = folder
        self._inbox = connection.new_inbox()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def open(self) -> None:
        """Listen for replies."""

        async def replied(message: Any) -> None:  # noqa: ANN401  # untyped library
            waiting = self._waiting.pop(message.subject, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

        await self._connection.subscribe(f"{self._inbox}.*", cb=replied)

    async def submit(self, queue: str) -> None:
        await self._stream.publish(f"{STREAM}.{queue}", PAYLOAD)

    async def to_done(self) -> None:
        subject = f"{self._inbox}.{next(self._numbers)}"
        ended = self._waiting[subject] = asyncio.get_running_loop().create_future()
        await self._stream.publish(f"{STREAM}.{DONE}", PAYLOAD, headers={REPLY: subject})
        await ended

    def worker(self, queue: str) -> AbstractContextManager[None]:
        module = "benchmarks.peers.workers.jetstream_worker"
        return python_worker(self._folder, [module, self._url, queue], {})

    async def remaining(self, queue: str) -> int:
        found = await self._stream.consumer_info(STREAM, queue)
        return int(found.num_pending) + int(found.num_ack_pending)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[JetStreamSession]:
    """Start three servers, make the stream and connect to the server that leads it."""
    addresses = free_addresses(6)
    urls = {f"n{number}": f"nats://{address}" for number, address in enumerate(addresses[:3])}
    routes = ", ".join(f"nats://{address}" for address in addresses[3:])
    with Servers(folder) as servers:
        for number, name in enumerate(urls):
            config = folder / f"{name}.conf"
            config.write_text(
                f"server_name: {name}\nlisten: {addresses[number]}\n"
                f"jetstream {{ store_dir: {folder / name} }}\n"
                f"cluster {{ name: bench, listen: {addresses[3 + number]}, routes: [{routes}] }}\n"
            )
            servers.start(name, [need("nats-server"), "-c", str(config)])
        for server, address in zip(servers.servers, addresses[:3], strict=True):
            servers.await_address(server, address)
        leader = await _make_stream(urls["n0"])
        connection = await nats.connect(urls[leader])
        try:
            session = JetStreamSession(connection, urls[leader], folder)
            await session.open()
            yield session
        finally:
            await connection.close()


async def _make_stream(url: str) -> str:
    """Make the stream and its consumers once the servers have a leader; return the stream's."""
    connection = await nats.connect(url)
    stream = connection.jetstream(timeout=5)
    config = StreamConfig(
        name=STREAM,
        subjects=[f"{STREAM}.*"],
        num_replicas=3,
        storage=StorageType.FILE,
        retention=RetentionPolicy.WORK_QUEUE,
    )
    try:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    await stream.add_stream(config)
                    break
                except (NatsError, TimeoutError):
                    await asyncio.sleep(0.2)
            for queue in (SUBMITTED, DRAINED, DONE):
                await stream.add_consumer(
                    STREAM,
                    ConsumerConfig(
                        durable_name=queue,
                        filter_subject=f"{STREAM}.{queue}",
                        max_ack_pending=2 * IN_HAND,
                    ),
                )
            return str((await stream.stream_info(STREAM)).cluster.leader)
    finally:
        await connection.close()
