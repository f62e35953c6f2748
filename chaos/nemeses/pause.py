"""F2: the leader is paused with open connections, and resumes with its old state."""

from __future__ import annotations

import random

from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis


class PauseLeader(Nemesis):
    """SIGSTOP past the election and past the leases, then SIGCONT."""

    name = "pause-leader"
    faults = ("F2",)
    summary = "SIGSTOP the leader past the election and past the leases"
    hold_s = (2.5, 3.5)

    def __init__(self) -> None:
        self._paused: list[str] = []

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        leader = await context.cluster.await_leader(within_s=self.within_s)
        self._paused = [leader.node_id]
        await context.cluster.freeze(*self._paused)
        return Injected("paused", tuple(self._paused))

    async def heal(self, context: RunContext) -> None:
        paused, self._paused = self._paused, []
        await context.cluster.thaw(*paused)
