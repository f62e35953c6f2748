"""F2: the leader falls silent, its connections open, and wakes up believing what it believed."""

from __future__ import annotations

import random

from chaos.arena import Arena
from chaos.nemesis import Deed, Nemesis


class PauseLeader(Nemesis):
    """SIGSTOP past the election and past the leases, then SIGCONT."""

    name = "pause-leader"
    faults = ("F2",)
    summary = "SIGSTOP the leader past the election and past the leases"
    hold_s = (2.5, 3.5)

    def __init__(self) -> None:
        self._paused: list[str] = []

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        del draw
        leader = await arena.cluster.await_leader(within_s=self.within_s)
        self._paused = [leader.node_id]
        await arena.cluster.freeze(*self._paused)
        return Deed("paused", tuple(self._paused))

    async def heal(self, arena: Arena) -> None:
        paused, self._paused = self._paused, []
        await arena.cluster.thaw(*paused)
