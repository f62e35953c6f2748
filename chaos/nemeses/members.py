"""F16: a member loses its disk and is replaced, and its old disk comes back."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from grpc import aio

from chaos.cluster.cluster import NodeStatus
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.nemeses.starve import broker
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc

ASK_S = 5.0


class ReplaceMember(Nemesis):
    """A follower's disk is lost under load and a new one takes its place; then the old one is back.

    The old disk must never take part again: it acknowledged what the new one does not hold.
    """

    name = "replace-member"
    faults = ("F16",)
    summary = "a node loses its disk and is replaced under load; its old disk turns up again"
    transports = frozenset({Transport.PROCESSES, Transport.NETLAB})
    hold_s = (0.0, 0.2)
    alone = True
    excuses = ("the node stops",)

    def __init__(self) -> None:
        self._folder = Path()
        self._down: list[str] = []
        self._disk_to_return: tuple[Path, Path] | None = None

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        del node_ids
        self._folder = folder / self.name

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        cluster = context.cluster
        leader = (await cluster.await_leader(self.within_s)).node_id
        node = draw.choice([name for name in cluster.nodes if name != leader])
        data_dir, old, new = (
            broker(context, node).data_dir,
            self._folder / "old",
            self._folder / "new",
        )
        self._down = [node]
        await cluster.crash(node)
        await _move(data_dir, old)
        await cluster.revive(node)
        await self._await_stranger(context, node)
        with context.stage(self.name, "replaced", node):
            await cluster.await_fact(
                f"{node} to be replaced", lambda: self._replaced(context, node), self.within_s
            )
            await cluster.await_caught_up(cluster.nodes, self.within_s)
        # The old disk does not hold what the new disk acknowledges from here on.
        await context.load.await_acknowledgement(self.within_s)
        with context.stage(self.name, "the old disk is back", node):
            await cluster.crash(node)
            await _move(data_dir, new)
            self._disk_to_return = (new, data_dir)
            await _move(old, data_dir)
            await cluster.revive(node)
            await self._await_stranger(context, node)
            await cluster.crash(node)
        return Injected("replaced; its old disk came back and was refused", (node,))

    async def heal(self, context: RunContext) -> None:
        down, self._down = self._down, []
        if self._disk_to_return is not None:
            new, data_dir = self._disk_to_return
            self._disk_to_return = None
            await context.cluster.crash(*down)
            await asyncio.to_thread(shutil.rmtree, data_dir, ignore_errors=True)
            await _move(new, data_dir)
        await context.cluster.revive(*down)

    async def _await_stranger(self, context: RunContext, node: str) -> None:
        """Wait until the node says that it takes no part, or has ended for that reason."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.within_s
        while loop.time() < until_s:
            if context.cluster.nodes[node].exited() is not None:
                return
            status = await context.cluster.node_status(node)
            if isinstance(status, NodeStatus):
                if status.role == NodeStatus.ROLE_STRANGER:
                    return
                if status.role == NodeStatus.ROLE_LEADER:
                    context.accuse("F16", f"{node} leads with a disk that is not the cluster's")
                    return
            await asyncio.sleep(0.05)
        context.accuse("F16", f"{node} did not say that its disk is not the one the cluster knows")

    async def _replaced(self, context: RunContext, node: str) -> bool | None:
        asked = await context.cluster.leader_now()
        if asked is None:
            return None
        stub = cluster_service_pb2_grpc.ClusterServiceStub(context.cluster.channel(asked))
        request = cluster_service_pb2.ReplaceNodeRequest(node_id=node)
        try:
            await stub.ReplaceNode(request, timeout=ASK_S)
        except aio.AioRpcError:
            return None  # not yet; on a timeout the error says what was expected
        return True


async def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(shutil.move, source, target)
