"""F7 and F8: the power fails, and everything that was not fsynced is lost."""

from __future__ import annotations

import asyncio
import random

from chaos.context import Injected, RunContext
from chaos.nemeses.on_disks import OnDisks


class PowerLoss(OnDisks):
    """Some nodes lose power at once: the processes die, then their disks lose unsynced writes."""

    faults = ("F7",)

    def __init__(self) -> None:
        super().__init__()
        self._down: list[str] = []

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        """The nodes that lose power."""
        raise NotImplementedError

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        self._down = await self.choose(context, draw)
        await context.cluster.crash(*self._down)
        for node_id in self._down:
            await asyncio.to_thread(self.disks[node_id].cut_power)
        return Injected("lost power", tuple(self._down))

    async def heal(self, context: RunContext) -> None:
        down, self._down = self._down, []
        await self.repair(down)
        await context.cluster.revive(*down)


class PowerLossOne(PowerLoss):
    """The leader's host."""

    name = "power-loss-one"
    summary = "the leader loses power and everything it had not fsynced"

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        del draw
        return [(await context.cluster.await_leader(within_s=self.within_s)).node_id]


class PowerLossMajority(PowerLoss):
    """A majority of the hosts, the leader's among them."""

    name = "power-loss-majority"
    summary = "the leader and a follower lose power and everything they had not fsynced"

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        others = [name for name in context.cluster.nodes if name != leader.node_id]
        return [leader.node_id, *draw.sample(others, context.cluster.majority - 1)]


class PowerLossAll(PowerLoss):
    """All hosts."""

    name = "power-loss-all"
    summary = "every node loses power and everything it had not fsynced"

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        return draw.sample(sorted(context.cluster.nodes), len(context.cluster.nodes))


class PowerLossBesidePause(PowerLoss):
    """One node loses unsynced writes while another is paused: the third decides."""

    name = "power-loss-beside-pause"
    faults = ("F8",)
    summary = "a follower is paused; then the leader loses power and what it had not fsynced"

    def __init__(self) -> None:
        super().__init__()
        self._paused: list[str] = []

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        others = [name for name in context.cluster.nodes if name != leader.node_id]
        self._paused = [draw.choice(others)]
        await context.cluster.freeze(*self._paused)
        # The two other nodes acknowledge without it.
        await context.load.await_acknowledgement(self.within_s)
        return [leader.node_id]

    async def heal(self, context: RunContext) -> None:
        await super().heal(context)
        paused, self._paused = self._paused, []
        await context.cluster.thaw(*paused)
