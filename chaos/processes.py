"""A cluster of broker processes on loopback, to be broken and watched.

    async with ProcessCluster(folder) as cluster:
        leader = await cluster.await_leader(within_s=10)
        cluster.kill(leader.node_id)
        await cluster.await_leader(within_s=10)

Whoever waits here waits for a fact. When it does not come, the error tells each node's role, term
and indexes, and the last lines of every log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio

from chaos.broker import TQ_CLUSTER, BrokerProcess
from chaos.ports import free_addresses
from chaos.stubs import CHANNEL_OPTIONS
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc

NodeStatus = cluster_service_pb2.NodeStatus
FactT = TypeVar("FactT")

POLL_S = 0.02
ASK_S = 1.0


class FactMissingError(AssertionError):
    """What was waited for did not come; says what was seen instead."""


class ProcessCluster:
    """Broker processes n1, n2, ... with everything they write below ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        launcher: Sequence[str] = TQ_CLUSTER,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        addresses = free_addresses(2 * nodes)
        members = {
            f"n{number + 1}": {"raft": addresses[2 * number], "api": addresses[2 * number + 1]}
            for number in range(nodes)
        }
        self.folder = folder
        self.brokers = {
            node_id: BrokerProcess(
                node_id, folder, members, launcher=launcher, environment=environment
            )
            for node_id in members
        }
        self._channels: dict[str, aio.Channel] = {}

    @property
    def addresses(self) -> list[str]:
        """The API addresses of all nodes, up or down."""
        return [broker.address for broker in self.brokers.values()]

    @property
    def majority(self) -> int:
        """How many nodes decide."""
        return len(self.brokers) // 2 + 1

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            print(await self.describe())  # noqa: T201  # the logs are gone with the folder
        await self.close()

    async def start(self, within_s: float = 30) -> None:
        """Start every node that is down and wait until the cluster has a leader."""
        for broker in self.brokers.values():
            if broker.pid is None:
                broker.start()
        await self.await_leader(within_s)

    async def close(self) -> None:
        """End every process at once; nothing of this cluster is needed any more."""
        for broker in self.brokers.values():
            broker.kill()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def kill(self, *node_ids: str) -> None:
        """SIGKILL these nodes."""
        for node_id in node_ids:
            self.brokers[node_id].kill()

    def pause(self, node_id: str) -> None:
        """SIGSTOP this node."""
        self.brokers[node_id].pause()

    def resume(self, node_id: str) -> None:
        """SIGCONT this node."""
        self.brokers[node_id].resume()

    def restart(self, *node_ids: str) -> None:
        """Start these nodes again where they were killed."""
        for node_id in node_ids:
            self.brokers[node_id].start()

    def channel(self, node_id: str) -> aio.Channel:
        """An open channel to a node's API, shared by everyone who asks."""
        if node_id not in self._channels:
            self._channels[node_id] = aio.insecure_channel(
                self.brokers[node_id].address, options=CHANNEL_OPTIONS
            )
        return self._channels[node_id]

    async def node_status(self, node_id: str) -> NodeStatus | str:
        """A node's own word on itself, or why there is none."""
        broker = self.brokers[node_id]
        if broker.pid is None:
            return "down"
        if broker.paused:
            return "paused"
        stub = cluster_service_pb2_grpc.ClusterServiceStub(self.channel(node_id))
        try:
            reply = await stub.GetNodeStatus(
                cluster_service_pb2.GetNodeStatusRequest(), timeout=ASK_S
            )
        except grpc.aio.AioRpcError as error:
            return f"no answer: {error.code().name}"
        return reply.node

    async def statuses(self, node_ids: Iterable[str] | None = None) -> dict[str, NodeStatus | str]:
        """Every node's own word, asked at the same time."""
        asked = list(node_ids or self.brokers)
        return dict(zip(asked, await asyncio.gather(*map(self.node_status, asked)), strict=True))

    async def await_leader(self, within_s: float, *, other_than: str | None = None) -> NodeStatus:
        """Wait until a majority, and the node itself, say who leads in the highest term."""

        async def leader() -> NodeStatus | None:
            known = [s for s in (await self.statuses()).values() if isinstance(s, NodeStatus)]
            term = max((status.term for status in known), default=0)
            for status in known:
                followers = [s for s in known if s.leader_id == status.node_id and s.term == term]
                if (
                    status.role == NodeStatus.ROLE_LEADER
                    and status.term == term
                    and status.node_id != other_than
                    and len(followers) >= self.majority
                ):
                    return status
            return None

        return await self.await_fact("a leader that a majority agrees on", leader, within_s)

    async def await_caught_up(self, node_ids: Iterable[str], within_s: float) -> None:
        """Wait until these nodes have applied what the leader has committed by now."""
        leader = await self.await_leader(within_s)
        waiting = list(node_ids)

        async def caught_up() -> bool | None:
            statuses = await self.statuses(waiting)
            return (
                all(
                    isinstance(status, NodeStatus) and status.applied_index >= leader.commit_index
                    for status in statuses.values()
                )
                or None
            )

        what = f"{', '.join(waiting)} to have applied index {leader.commit_index}"
        await self.await_fact(what, caught_up, within_s)

    async def await_fact(
        self, what: str, probe: Callable[[], Awaitable[FactT | None]], within_s: float
    ) -> FactT:
        """Ask ``probe`` until it has an answer; FactMissingError tells what was seen instead."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        while True:
            fact = await probe()
            if fact is not None:
                return fact
            for broker in self.brokers.values():
                code = broker.exited()
                if code is not None:
                    raise FactMissingError(
                        f"{broker.node_id} ended by itself with code {code} while waiting for"
                        f" {what}\n{broker.log_tail()}"
                    )
            if loop.time() > deadline_s:
                raise FactMissingError(
                    f"waited {within_s} s for {what}; seen instead:\n{await self.describe()}"
                )
            await asyncio.sleep(POLL_S)

    async def describe(self) -> str:
        """Each node's role, term and indexes, and the end of its log."""
        lines = []
        for node_id, status in (await self.statuses()).items():
            if isinstance(status, str):
                lines.append(f"{node_id}: {status}")
            else:
                lines.append(
                    f"{node_id}: {NodeStatus.Role.Name(status.role)} term {status.term}"
                    f" leader {status.leader_id or '?'} last {status.last_index}"
                    f" commit {status.commit_index} applied {status.applied_index}"
                    f" {status.message}"
                )
        tails = [broker.log_tail() for broker in self.brokers.values()]
        return "\n".join([*lines, *tails])
