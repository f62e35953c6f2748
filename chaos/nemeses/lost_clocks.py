"""F24 with F15: a majority of the disks is lost, and clocks are behind during the recovery."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from chaos.cluster.broker import NodeSetup
from chaos.context import Injected, RunContext
from chaos.nemeses.clock import ClockSkew
from chaos.nemeses.lost_majority import LostMajority

BEHIND_S = 45.0
"""Less than the minute above which a restore refuses, more than a recovery and the loss take."""


class LostMajorityClocksBehind(LostMajority):
    """Tokens follow the clocks, but must still continue above the lost ones."""

    name = "lost-majority-clocks-behind"
    faults = ("F15", "F24")
    summary = f"as lost-majority; it is recovered where clocks are {BEHIND_S:g} s behind"

    def __init__(self) -> None:
        super().__init__()
        self._clocks = ClockSkew()

    def needs(self) -> str | None:
        return self._clocks.needs()

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        await super().prepare(folder, node_ids)
        await self._clocks.prepare(folder, node_ids)

    def setup(self, node_id: str) -> NodeSetup:
        return self._clocks.setup(node_id)

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        deed = await super().inject(context, draw)
        for node_id in context.cluster.nodes:
            self._clocks.move(node_id, -BEHIND_S)
        return deed

    async def heal(self, context: RunContext) -> None:
        await super().heal(context)
        await self._clocks.heal(context)
