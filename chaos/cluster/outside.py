"""An existing cluster: the suite sends load and checks it, but injects no faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpc import aio

from chaos.cluster.cluster import ASK_S, Cluster, NodeStatus
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc


class OutsideNode:
    """A node of which only the address is known."""

    running = True
    paused = False

    def __init__(self, address: str) -> None:
        self.node_id = address
        self.address = address

    def exited(self) -> int | None:
        """Always None: the exit code is not known here."""
        return None

    def log_tail(self) -> str:
        """No lines: the suite cannot read the log."""
        return f"--- {self.node_id}: see its own log"

    def complaints(self) -> list[str]:
        """None: the suite cannot read the log."""
        return []


class NotOursError(RuntimeError):
    """The cluster is not the suite's, so no fault may be injected."""


class OutsideCluster(Cluster):
    """An existing cluster, reached at the given addresses; its nodes may have any names."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__()
        self._nodes = {address: OutsideNode(address) for address in addresses}

    @property
    def nodes(self) -> Mapping[str, OutsideNode]:
        """The nodes by address."""
        return self._nodes

    async def start(self, within_s: float = 30) -> None:
        """Wait until it has a leader."""
        await self.await_leader(within_s)

    async def await_leader(self, within_s: float, *, other_than: str | None = None) -> NodeStatus:
        """Wait until any address names the leader, whose own may not be among them."""

        async def leader() -> NodeStatus | None:
            for address in self._nodes:
                stub = cluster_service_pb2_grpc.ClusterServiceStub(self.channel(address))
                try:
                    status = await stub.GetClusterStatus(
                        cluster_service_pb2.GetClusterStatusRequest(), timeout=ASK_S
                    )
                except aio.AioRpcError:
                    continue  # another one may answer; if none does the error lists all of them
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
