"""The base of the nemeses that give each node a disk of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from chaos.cluster import devices
from chaos.cluster.broker import NodeSetup
from chaos.cluster.devices import LoopDisk
from chaos.context import RunContext
from chaos.nemeses.nemesis import Nemesis, Transport

RESERVE_MB, BALLAST_MB = 64, 16
END_S = 20.0


class OnDisks(Nemesis):
    """Puts every node's data on a disk that can be broken."""

    transports = frozenset({Transport.PROCESSES, Transport.NETLAB})

    def __init__(self) -> None:
        self.disks: dict[str, LoopDisk] = {}

    def needs(self) -> str | None:
        return devices.missing()

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        for node_id in node_ids:
            # In a run with several of these, all of them break the same disks.
            disk = _DISKS.get(folder / node_id)
            if disk is None:
                disk = _DISKS[folder / node_id] = LoopDisk(folder / node_id)
                await asyncio.to_thread(disk.make)
            self.disks[node_id] = disk

    def setup(self, node_id: str) -> NodeSetup:
        limits = {"disk_reserve_mb": RESERVE_MB, "disk_ballast_mb": BALLAST_MB}
        data_dir = self.disks[node_id].path / "data"
        return NodeSetup(data_dir=data_dir, settings={"limits": limits})

    async def cleanup(self) -> None:
        for disk in self.disks.values():
            await asyncio.to_thread(disk.close)
            for folder in [folder for folder, known in _DISKS.items() if known is disk]:
                del _DISKS[folder]
        self.disks = {}

    async def repair(self, node_ids: Iterable[str]) -> None:
        """Remount the disks of nodes that are down."""
        await asyncio.gather(*(asyncio.to_thread(self.disks[name].repair) for name in node_ids))


_DISKS: dict[Path, LoopDisk] = {}


async def await_end(context: RunContext, node_id: str, within_s: float = END_S) -> int | None:
    """Wait until a node has ended by itself, and mark it as down; None if it did not end."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + within_s
    node = context.cluster.nodes[node_id]
    while (code := node.exited()) is None and loop.time() < until_s:  # noqa: ASYNC110  # no event
        await asyncio.sleep(0.05)
    await context.cluster.crash(node_id)
    return code
