"""F24: a cluster is lost for good, and a new one is made from a file, as in docs/recovery.md.

The operator accepts what is lost then. A ``Loss`` in the ledger records how much that can be, and
the checker uses it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from chaos.context import Injected, RunContext
from chaos.history.loss import Loss
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.nemeses.starve import broker

GO_ON_S = (0.3, 0.9)
"""For how long the old cluster still acknowledges calls that will be lost."""


class NewCluster(Nemesis):
    """A cluster is lost, and every node restarts from the same file."""

    faults: ClassVar[tuple[str, ...]] = ("F24",)
    transports = frozenset({Transport.PROCESSES})
    hold_s = (0.0, 0.2)
    alone = True

    def __init__(self) -> None:
        self._folder = Path()
        self._files = 0

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        del node_ids
        self._folder = folder / self.name
        self._folder.mkdir(parents=True)

    def new_file(self) -> Path:
        """The path of the next backup."""
        self._files += 1
        return self._folder / f"backup-{self._files}"

    async def go_on(self, context: RunContext, draw: random.Random) -> None:
        """Let the old cluster acknowledge what will be lost."""
        await context.load.await_acknowledgement(self.within_s)
        await asyncio.sleep(draw.uniform(*GO_ON_S))

    async def destroy(self, context: RunContext, node_ids: Sequence[str]) -> Injected:
        """Kill these nodes at once and lose their disks."""
        broke_s = context.ledger.now_s()
        context.load.held_back = True
        await context.cluster.crash(*node_ids)
        for node_id in node_ids:
            await asyncio.to_thread(shutil.rmtree, broker(context, node_id).data_dir)
        return Injected("lost with their disks", tuple(node_ids), broke_s)

    async def new_cluster(
        self, context: RunContext, file: Path, *, certain_s: float, gone_s: float, quarantined: bool
    ) -> None:
        """Restore every node from the file, record the loss in the ledger, and start the nodes."""
        nodes = [broker(context, name) for name in context.cluster.nodes]
        await asyncio.gather(*(node.restore(file) for node in nodes))
        loss = Loss(
            certain_s=certain_s,
            gone_s=gone_s,
            back_s=context.ledger.now_s(),
            quarantined=quarantined,
        )
        context.ledger.lost(loss)
        open_ = sum(loss.may_have_taken(call) for call in context.ledger.calls)
        with context.stage(self.name, f"a new cluster begins; {open_} answers may hold no longer"):
            await context.cluster.revive(*context.cluster.nodes)
            await context.cluster.await_leader(self.within_s)
        context.load.held_back = False

    async def let_live(self, context: RunContext) -> None:
        """Start the nodes as they are: nothing is lost, or no new cluster can be made."""
        await context.cluster.revive(*context.cluster.nodes)
        context.load.held_back = False
