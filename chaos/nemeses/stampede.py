"""F23: hundreds of clients lose their node at once, and all come back at once."""

from __future__ import annotations

import asyncio
import random
import sys

from chaos.clients.stampede import CONNECTED
from chaos.cluster.netlab import ROOT
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis

CLIENTS = 300
CONNECTED_WITHIN_S = 60.0


class Stampede(Nemesis):
    """The leader dies with many connections; every client retries at once."""

    name = "stampede"
    faults = ("F23",)
    summary = f"{CLIENTS} clients reconnect at once and retry without pause"
    hold_s = (1.5, 2.5)
    alone = True

    def __init__(self) -> None:
        self._down: list[str] = []
        self._crowd: asyncio.subprocess.Process | None = None

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        self._crowd = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "chaos.clients.stampede",
                str(CLIENTS),
                ",".join(context.addresses),
            ),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._crowd.stdout is not None
        async with asyncio.timeout(CONNECTED_WITHIN_S):
            said = await self._crowd.stdout.readline()
        assert said.decode().strip() == CONNECTED, f"the crowd ended early: {said!r}"
        leader = (await context.cluster.await_leader(self.within_s)).node_id
        self._down = [leader]
        await context.cluster.crash(leader)
        return Injected(f"killed under {CLIENTS} connections", (leader,))

    async def heal(self, context: RunContext) -> None:
        """Keep the clients until a write is acknowledged: the cluster must recover under them."""
        down, self._down = self._down, []
        if down:
            healed_s = context.ledger.now_s()
            await context.cluster.revive(*down)
            await context.load.await_acknowledgement(self.within_s, since_s=healed_s)
        await self.cleanup()

    async def cleanup(self) -> None:
        crowd, self._crowd = self._crowd, None
        if crowd is not None and crowd.returncode is None:
            crowd.kill()
            await crowd.wait()
