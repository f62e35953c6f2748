"""Somebody else's cluster: the suite uses and judges it, and leaves its faults to its owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpc import aio

from chaos.cluster.cluster import ASK_S, Cluster, NodeStatus
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc


class OutsideNode:
    """A node that is known by its address alone."""

    running = True
    paused = False

    def __init__(self, address: str) -> None:
        self.node_id = address
        self.address = address

    def exited(self) -> int | None:
        """Nobody here would know."""
        return None

    def log_tail(self) -> str:
        """Its log is its owner's."""
        return f"--- {self.node_id}: see its own log"

    def complaints(self) -> list[str]:
        """As for the log."""
        return []


class NotOursError(RuntimeError):
    """A fault was to be injected into a cluster that is not the suite's."""


class OutsideCluster(Cluster):
    """Reached at the addresses given, by whatever names its nodes have."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__()
        self._nodes = {address: OutsideNode(address) for address in addresses}

    @property
    def nodes(self) -> Mapping[str, OutsideNode]:
        """By address."""
        return self._nodes

    async def start(self, within_s: float = 30) -> None:
        """Wait until it has a leader."""
        await self.await_leader(within_s)

    async def await_leader(self, within_s: float, *, other_than: str | None = None) -> NodeStatus:
        """Wait until any address knows who leads: the leader's own may not be among them."""

        async def leader() -> NodeStatus | None:
            for address in self._nodes:
                stub = cluster_service_pb2_grpc.ClusterServiceStub(self.channel(address))
                try:
                    status = await stub.GetClusterStatus(
                        cluster_service_pb2.GetClusterStatusRequest(), timeout=ASK_S
                    )
                except aio.AioRpcError:
                    continue  # another one may answer; all of them are told when none does
                for node in status.nodes:
                    if node.node_id == status.leader_id not in {"", other_than}:
                        return node
            return None

        return await self.await_fact("a leader that any address knows", leader, within_s)

    async def crash(self, *node_ids: str) -> None:
        raise NotOursError(f"{node_ids} are not ours to kill")

    async def freeze(self, *node_ids: str) -> None:
        raise NotOursError(f"{node_ids} are not ours to pause")

    async def thaw(self, *node_ids: str) -> None:
        raise NotOursError(f"{node_ids} are not ours to wake")

    async def revive(self, *node_ids: str) -> None:
        raise NotOursError(f"{node_ids} are not ours to start")

    async def shut_down(self, node_id: str) -> int | None:
        raise NotOursError(f"{node_id} is not ours to stop")
