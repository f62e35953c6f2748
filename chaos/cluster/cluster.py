"""A cluster as a nemesis sees it: nodes to break, and facts to wait for.

Every wait is for a fact. On a timeout, the error has each node's role, term and indexes, and the
last lines of every log.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Protocol, Self, TypeVar

import grpc
from grpc import aio

from chaos.cluster.stubs import CHANNEL_OPTIONS
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc

NodeStatus = cluster_service_pb2.NodeStatus
FactT = TypeVar("FactT")

POLL_S = 0.02
ASK_S = 1.0


class FactMissingError(AssertionError):
    """A fact did not become true in time; the message says what was seen instead."""


class Node(Protocol):
    """One broker: a process, a container or a remote node."""

    @property
    def node_id(self) -> str: ...

    @property
    def address(self) -> str:
        """Where its API answers."""

    @property
    def running(self) -> bool:
        """Whether it was started and not killed since; a paused one runs."""

    @property
    def paused(self) -> bool: ...

    def exited(self) -> int | None:
        """The exit code if it ended by itself."""

    def log_tail(self) -> str:
        """The last lines that it logged."""

    def complaints(self) -> list[str]:
        """Log lines that no injected fault explains."""


class Cluster(ABC):
    """Nodes by name, and the operations that work on any kind of node."""

    _channels: dict[str, aio.Channel]

    def __init__(self) -> None:
        self._channels = {}

    @property
    @abstractmethod
    def nodes(self) -> Mapping[str, Node]:
        """Every node, up or down."""

    @abstractmethod
    async def start(self, within_s: float = 30) -> None:
        """Start every node that is down and wait until the cluster has a leader."""

    @abstractmethod
    async def crash(self, *node_ids: str) -> None:
        """SIGKILL these nodes at once: nothing is flushed."""

    @abstractmethod
    async def freeze(self, *node_ids: str) -> None:
        """Pause those of these nodes that run; every connection stays open."""

    @abstractmethod
    async def thaw(self, *node_ids: str) -> None:
        """Resume those of these nodes that are frozen."""

    @abstractmethod
    async def revive(self, *node_ids: str) -> None:
        """Start those of these nodes that are down, on their old data; they may not answer yet."""

    @abstractmethod
    async def shut_down(self, node_id: str) -> int | None:
        """Ask a node to end and wait; return its exit code, None if it had to be killed."""

    async def close(self) -> None:
        """Take the whole cluster down for good."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

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

    @property
    def addresses(self) -> list[str]:
        """The API addresses of all nodes, up or down."""
        return [node.address for node in self.nodes.values()]

    @property
    def majority(self) -> int:
        """The number of nodes that are a majority."""
        return len(self.nodes) // 2 + 1

    @property
    def standing(self) -> list[str]:
        """The nodes that run and are not paused, as far as the suite knows."""
        return [name for name, node in self.nodes.items() if node.running and not node.paused]

    def channel(self, node_id: str) -> aio.Channel:
        """An open channel to a node's API, shared by all callers."""
        if node_id not in self._channels:
            self._channels[node_id] = aio.insecure_channel(
                self.nodes[node_id].address, options=CHANNEL_OPTIONS
            )
        return self._channels[node_id]

    async def node_status(self, node_id: str) -> NodeStatus | str:
        """A node's own status, or the reason why there is none."""
        node = self.nodes[node_id]
        if not node.running:
            return "down"
        if node.paused:
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
        """The status of every node, requested at the same time."""
        asked = list(self.nodes if node_ids is None else node_ids)
        return dict(zip(asked, await asyncio.gather(*map(self.node_status, asked)), strict=True))

    async def leader_now(self) -> str | None:
        """The answering node that leads the highest term; None if none says that it leads."""
        leaders = [
            (status.term, status.node_id)
            for status in (await self.statuses(self.standing)).values()
            if isinstance(status, NodeStatus) and status.role == NodeStatus.ROLE_LEADER
        ]
        return max(leaders)[1] if leaders else None

    async def await_leader(self, within_s: float, *, other_than: str | None = None) -> NodeStatus:
        """Wait until a majority, and the leader itself, agree who leads in the highest term."""

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
        """Call ``probe`` until it has an answer; FactMissingError says what was seen instead."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        while True:
            fact = await probe()
            if fact is not None:
                return fact
            for node in self.nodes.values():
                code = node.exited()
                if code is not None:
                    raise FactMissingError(
                        f"{node.node_id} ended by itself with code {code} while waiting for"
                        f" {what}\n{node.log_tail()}"
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
        tails = [node.log_tail() for node in self.nodes.values()]
        return "\n".join([*lines, *tails])
