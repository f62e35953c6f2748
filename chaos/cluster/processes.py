"""A cluster of broker processes on loopback, to be broken and watched.

async with ProcessCluster(folder) as cluster:
    leader = await cluster.await_leader(within_s=10)
    cluster.kill(leader.node_id)
    await cluster.await_leader(within_s=10)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chaos.cluster.broker import TQ_CLUSTER, BrokerProcess, NodeSetup
from chaos.cluster.cluster import Cluster, FactMissingError, NodeStatus
from chaos.cluster.ports import HeldPorts

__all__ = ["FactMissingError", "NodeStatus", "ProcessCluster"]


class ProcessCluster(Cluster):
    """Broker processes n1, n2, ... with everything they write below ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        launcher: Sequence[str] = TQ_CLUSTER,
        environment: Mapping[str, str] | None = None,
        members: Mapping[str, Mapping[str, str]] | None = None,
        setup: Callable[[str], NodeSetup] | None = None,
    ) -> None:
        """``members`` gives the nodes and their addresses, instead of free ones on loopback.

        ``setup`` says how each node is started, beyond what all of them share.
        """
        super().__init__()
        self.folder = folder
        shared = NodeSetup(launcher=tuple(launcher), environment=dict(environment or {}))
        self._ports = HeldPorts(0 if members else 2 * nodes)
        known = members or _on_loopback(self._ports.addresses)
        self.brokers = {
            node_id: BrokerProcess(
                node_id, folder, known, setup=shared.with_(setup(node_id)) if setup else shared
            )
            for node_id in known
        }

    @property
    def nodes(self) -> Mapping[str, BrokerProcess]:
        """The brokers."""
        return self.brokers

    async def start(self, within_s: float = 30) -> None:
        """Start every node that is down and wait until the cluster has a leader."""
        for broker in self.brokers.values():
            if not broker.running:
                broker.start()
        await self.await_leader(within_s)

    async def close(self) -> None:
        """End every process at once."""
        for broker in self.brokers.values():
            broker.kill()
        self._ports.give_back()
        await super().close()

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
        """Start these nodes again at the same addresses."""
        for node_id in node_ids:
            self.brokers[node_id].start()

    async def crash(self, *node_ids: str) -> None:
        """As ``kill``, for callers that do not know the kind of cluster."""
        self.kill(*node_ids)

    async def freeze(self, *node_ids: str) -> None:
        """As ``pause``, for those that run."""
        for node_id in node_ids:
            if self.brokers[node_id].running:
                self.pause(node_id)

    async def thaw(self, *node_ids: str) -> None:
        """As ``resume``, for those that are paused."""
        for node_id in node_ids:
            if self.brokers[node_id].paused:
                self.resume(node_id)

    async def revive(self, *node_ids: str) -> None:
        """As ``restart``, for those that are down."""
        self.restart(*(name for name in node_ids if not self.brokers[name].running))

    async def shut_down(self, node_id: str) -> int | None:
        """SIGTERM, and wait for the end."""
        return await self.brokers[node_id].stop()


def _on_loopback(addresses: Sequence[str]) -> dict[str, dict[str, str]]:
    return {
        f"n{number + 1}": {"raft": raft, "api": api}
        for number, (raft, api) in enumerate(zip(addresses[::2], addresses[1::2], strict=True))
    }
