"""F1: nodes are killed."""

from __future__ import annotations

import asyncio
import random

from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis

STAGGER_S = 0.4


class Kill(Nemesis):
    """SIGKILL some nodes; afterwards start them together, or one after the other."""

    faults = ("F1",)

    def __init__(self) -> None:
        self._down: list[str] = []
        self._stagger_s = 0.0

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        """The nodes to kill."""
        raise NotImplementedError

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        self._stagger_s = draw.choice((0.0, STAGGER_S))
        self._down = await self.choose(context, draw)
        await context.cluster.crash(*self._down)
        return Injected("killed", tuple(self._down))

    async def heal(self, context: RunContext) -> None:
        down, self._down = self._down, []
        if not self._stagger_s:
            await context.cluster.revive(*down)
            return
        for node_id in down:
            await context.cluster.revive(node_id)
            await asyncio.sleep(self._stagger_s)


class KillLeader(Kill):
    """The leader."""

    name = "kill-leader"
    summary = "SIGKILL the leader"

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        del draw
        return [(await context.cluster.await_leader(within_s=self.within_s)).node_id]


class KillFollower(Kill):
    """A follower: the others are still a majority."""

    name = "kill-follower"
    summary = "SIGKILL a follower"

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        return [draw.choice([name for name in context.cluster.nodes if name != leader.node_id])]


class KillTwo(Kill):
    """The leader and one more: one of three nodes can decide nothing."""

    name = "kill-two"
    summary = "SIGKILL the leader and a follower"

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        others = [name for name in context.cluster.nodes if name != leader.node_id]
        return [leader.node_id, draw.choice(others)]


class KillAll(Kill):
    """All nodes at once: only what is on disk remains."""

    name = "kill-all"
    summary = "SIGKILL every node"

    async def choose(self, context: RunContext, draw: random.Random) -> list[str]:
        return draw.sample(sorted(context.cluster.nodes), len(context.cluster.nodes))
