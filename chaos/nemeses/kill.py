"""F1: nodes die without a word."""

from __future__ import annotations

import asyncio
import random

from chaos.arena import Arena
from chaos.nemesis import Deed, Nemesis

STAGGER_S = 0.4


class Kill(Nemesis):
    """SIGKILL some nodes; afterwards start them together, or one after the other."""

    faults = ("F1",)

    def __init__(self) -> None:
        self._down: list[str] = []
        self._stagger_s = 0.0

    async def choose(self, arena: Arena, draw: random.Random) -> list[str]:
        """Which nodes."""
        raise NotImplementedError

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        self._stagger_s = draw.choice((0.0, STAGGER_S))
        self._down = await self.choose(arena, draw)
        await arena.cluster.crash(*self._down)
        return Deed("killed", tuple(self._down))

    async def heal(self, arena: Arena) -> None:
        down, self._down = self._down, []
        if not self._stagger_s:
            await arena.cluster.revive(*down)
            return
        for node_id in down:
            await arena.cluster.revive(node_id)
            await asyncio.sleep(self._stagger_s)


class KillLeader(Kill):
    """The node that everybody talks to."""

    name = "kill-leader"
    summary = "SIGKILL the leader"

    async def choose(self, arena: Arena, draw: random.Random) -> list[str]:
        del draw
        return [(await arena.cluster.await_leader(within_s=self.within_s)).node_id]


class KillFollower(Kill):
    """A node that the majority can do without."""

    name = "kill-follower"
    summary = "SIGKILL a follower"

    async def choose(self, arena: Arena, draw: random.Random) -> list[str]:
        leader = await arena.cluster.await_leader(within_s=self.within_s)
        return [draw.choice([name for name in arena.cluster.nodes if name != leader.node_id])]


class KillTwo(Kill):
    """The leader and one more: of three, nothing can be decided any longer."""

    name = "kill-two"
    summary = "SIGKILL the leader and a follower"

    async def choose(self, arena: Arena, draw: random.Random) -> list[str]:
        leader = await arena.cluster.await_leader(within_s=self.within_s)
        others = [name for name in arena.cluster.nodes if name != leader.node_id]
        return [leader.node_id, draw.choice(others)]


class KillAll(Kill):
    """Everything at once: only what is on disk is left."""

    name = "kill-all"
    summary = "SIGKILL every node"

    async def choose(self, arena: Arena, draw: random.Random) -> list[str]:
        return draw.sample(sorted(arena.cluster.nodes), len(arena.cluster.nodes))
