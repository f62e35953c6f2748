"""RabbitMQ: three servers, quorum queues with three members, publisher confirms."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika

from benchmarks.peers.processes import (
    START_S,
    ServerError,
    Servers,
    as_user,
    give,
    need,
    python_worker,
)
from benchmarks.peers.session import PAYLOAD, AsyncSession
from benchmarks.peers.workloads import DONE, DRAINED, SUBMITTED
from chaos.cluster.ports import free_addresses

USER = "rabbitmq"
MEMBERS = 3


class RabbitSession(AsyncSession):
    """A connection to the server on which the queues were made, which so leads them."""

    calls_of_many = False

    def __init__(self, channel: Any, url: str, folder: Path) -> None:  # noqa: ANN401  # untyped
        self._channel = channel
        self._url = url
        self._folder = folder
        self._replies = ""
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def open(self) -> None:
        """Make the queues, and listen for replies."""
        for queue in (SUBMITTED, DRAINED, DONE):
            await self._channel.declare_queue(
                queue,
                durable=True,
                arguments={"x-queue-type": "quorum", "x-quorum-initial-group-size": MEMBERS},
            )
        replies = await self._channel.declare_queue(exclusive=True)
        self._replies = replies.name

        async def replied(message: Any) -> None:  # noqa: ANN401  # untyped library
            waiting = self._waiting.pop(message.correlation_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

        await replies.consume(replied, no_ack=True)

    async def submit(self, queue: str) -> None:
        await self._publish(queue)

    async def to_done(self) -> None:
        number = str(next(self._numbers))
        ended = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._publish(DONE, correlation_id=number, reply_to=self._replies)
        await ended

    def worker(self, queue: str) -> AbstractContextManager[None]:
        module = "benchmarks.peers.workers.rabbitmq_worker"
        return python_worker(self._folder, [module, self._url, queue], {})

    async def remaining(self, queue: str) -> int:
        """Count the ready ones: those in the worker's hands, at most its prefetch, are not."""
        found = await self._channel.declare_queue(queue, passive=True)
        return int(found.declaration_result.message_count)

    async def _publish(self, queue: str, **properties: str) -> None:
        message = aio_pika.Message(
            PAYLOAD, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **properties
        )
        await self._channel.default_exchange.publish(message, routing_key=queue, timeout=20)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[RabbitSession]:
    """Start three servers with a port mapper of their own, and wait until they are a cluster."""
    give(folder, USER)
    addresses = free_addresses(2 * MEMBERS + 1)
    names = [f"tq{number}@localhost" for number in range(MEMBERS)]
    mapper_port = addresses[-1].rpartition(":")[2]
    shared = {
        "HOME": str(folder),
        "ERL_EPMD_PORT": mapper_port,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        # Else a server that finds no port mapper starts one, which no process of ours would end.
        "ERL_FLAGS": "-start_epmd false",
        # The script then becomes the server, whose process id is the one that we have.
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_ERLANG_COOKIE": secrets.token_hex(16),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    (folder / "plugins").write_text("[].\n")
    config = folder / "rabbitmq.conf"
    discovered = "".join(
        f"cluster_formation.classic_config.nodes.{number} = {name}\n"
        for number, name in enumerate(names, 1)
    )
    config.write_text(f"cluster_formation.peer_discovery_backend = classic_config\n{discovered}")
    with Servers(folder) as servers:
        mapper = [*as_user(USER), need("epmd"), "-port", mapper_port, "-address", "127.0.0.1"]
        epmd = servers.start("epmd", mapper, environment=shared)
        servers.await_address(epmd, addresses[-1])
        for number, name in enumerate(names):
            host, _, port = addresses[number].rpartition(":")
            own = {
                "RABBITMQ_NODENAME": name,
                "RABBITMQ_NODE_IP_ADDRESS": host,
                "RABBITMQ_NODE_PORT": port,
                "RABBITMQ_DIST_PORT": addresses[MEMBERS + number].rpartition(":")[2],
                "RABBITMQ_CONFIG_FILE": str(config),
                "RABBITMQ_MNESIA_BASE": str(folder / f"data{number}"),
                "RABBITMQ_LOG_BASE": str(folder / f"log{number}"),
                "RABBITMQ_LOGS": "-",
            }
            command = [*as_user(USER), need("rabbitmq-server")]
            servers.start(f"rabbit{number}", command, environment={**shared, **own})
        for server, address in zip(servers.servers[1:], addresses, strict=False):
            servers.await_address(server, address)
        await asyncio.to_thread(_await_cluster, folder, names[0], shared)
        url = f"amqp://guest:guest@{addresses[0]}/"
        connection = await aio_pika.connect(url)
        try:
            channel = await connection.channel(publisher_confirms=True)
            session = RabbitSession(channel, url, folder)
            await session.open()
            yield session
        finally:
            await connection.close()


def _await_cluster(folder: Path, name: str, environment: dict[str, str]) -> None:
    command = [*as_user(USER), need("rabbitmqctl"), "-n", name]
    command += ["await_online_nodes", str(MEMBERS), "--timeout", f"{START_S:.0f}"]
    answer = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=START_S + 30,
    )
    if answer.returncode:
        raise ServerError(f"the servers are no cluster: {answer.stdout}{answer.stderr}")
