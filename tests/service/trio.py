"""Three real nodes, with real sockets and disks, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from chaos.cluster.ports import free_addresses
from tests.patience import PATIENCE_S
from tests.service.fakes import Stubs, until
from tq_cluster import config
from tq_cluster.node.node import Node


class Trio:
    """Three nodes that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        addresses = iter(free_addresses(6))
        members = {f"n{i}": {"raft": next(addresses), "api": next(addresses)} for i in (1, 2, 3)}
        self.configs = {
            node_id: config.NodeConfig.model_validate(
                {"node_id": node_id, "data_dir": folder / node_id, "members": members}
            )
            for node_id in members
        }
        self.nodes: dict[str, Node] = {}
        self.errors: list[BaseException] = []

    async def start(self, node_id: str) -> None:
        node = Node(self.configs[node_id], fatal=self.errors.append)
        await node.start()
        self.nodes[node_id] = node

    async def stop(self, node_id: str) -> None:
        await self.nodes.pop(node_id).stop()

    def leader_id(self) -> str | None:
        """The node that serves, if one does."""
        serving = [node_id for node_id, node in self.nodes.items() if node.group.leader.serving()]
        return serving[0] if len(serving) == 1 else None

    async def await_leader(self) -> str:
        def seen() -> str:
            return str({name: node.group.replica.status() for name, node in self.nodes.items()})

        await until(
            lambda: self.leader_id() is not None, f"a leader: {seen()}", within_s=PATIENCE_S
        )
        leader_id = self.leader_id()
        assert leader_id is not None
        return leader_id

    async def caught_up(self, node_id: str) -> None:
        """Wait until the node has applied everything that the leader has applied by now."""
        applied = self.nodes[await self.await_leader()].group.replica.status().applied_index
        replica = self.nodes[node_id].group.replica
        await until(lambda: replica.status().applied_index >= applied, f"{node_id} at {applied}")

    async def await_messages(self, text: str) -> dict[str, str]:
        """Wait until a node's message has ``text``; return the message of each node."""

        def messages() -> dict[str, str]:
            return {name: node.group.replica.status().message for name, node in self.nodes.items()}

        await until(lambda: any(text in each for each in messages().values()), text)
        return messages()

    async def await_calls(self, node_id: str, calls: int) -> None:
        """Wait until the node holds so many calls."""
        service = self.nodes[node_id].service
        await until(lambda: service.calls == calls, f"{calls} calls at {node_id}")

    @asynccontextmanager
    async def stubs(self, node_id: str) -> AsyncIterator[Stubs]:
        address = self.configs[node_id].members[node_id].api
        async with grpc.aio.insecure_channel(address) as channel:
            yield Stubs(channel)


@asynccontextmanager
async def trio(folder: Path, nodes: Trio | None = None) -> AsyncIterator[Trio]:
    """Three nodes that run, over what is in ``folder`` or over new directories."""
    nodes = nodes or Trio(folder)
    try:
        await asyncio.gather(*(nodes.start(node_id) for node_id in nodes.configs))
        yield nodes
    finally:
        for node_id in list(nodes.nodes):
            await nodes.stop(node_id)
    assert nodes.errors == []
