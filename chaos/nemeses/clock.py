"""F15: wall clocks that are wrong, step by hours, jump to and fro."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from chaos.cluster import preload
from chaos.cluster.broker import NodeSetup
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport

STROBE_S = 0.1
HOUR_S = 3_600.0


class ClockSkew(Nemesis):
    """Moves the wall clocks of nodes while they run; everything else keeps its time."""

    faults = ("F15",)
    transports = frozenset({Transport.PROCESSES, Transport.NETLAB})
    hold_s = (2.0, 3.0)

    def __init__(self) -> None:
        self._library: Path | None = None
        self._files: dict[str, Path] = {}
        self._strobing: asyncio.Task[None] | None = None

    def needs(self) -> str | None:
        return preload.missing()

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        self._library = await preload.build("clock_skew", folder)
        self._files = {name: folder / f"{name}.clock-skew" for name in node_ids}

    def setup(self, node_id: str) -> NodeSetup:
        return NodeSetup(
            environment={
                "LD_PRELOAD": str(self._library),
                "CLOCK_SKEW_FILE": str(self._files[node_id]),
            }
        )

    def move(self, node_id: str, seconds: float) -> None:
        """Set the offset of a node's clock."""
        partial = self._files[node_id].with_suffix(".partial")
        partial.write_text(f"{seconds:.6f}")
        partial.replace(self._files[node_id])

    async def heal(self, context: RunContext) -> None:
        del context
        if self._strobing is not None:
            self._strobing.cancel()
            await asyncio.gather(self._strobing, return_exceptions=True)
            self._strobing = None
        for node_id in self._files:
            self.move(node_id, 0.0)

    async def strobe(self, node_id: str, seconds: float) -> None:
        """Let a node's clock jump to and fro until ``heal``."""

        async def jump() -> None:
            while True:
                self.move(node_id, seconds)
                await asyncio.sleep(STROBE_S)
                self.move(node_id, 0.0)
                await asyncio.sleep(STROBE_S)

        self._strobing = asyncio.create_task(jump())


class LeaderClockSteps(ClockSkew):
    """The leader's clock, which keeps log time, steps."""

    name = "leader-clock-steps"
    summary = "the leader's wall clock steps by an hour"

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        seconds = draw.choice((-HOUR_S, HOUR_S))
        self.move(leader.node_id, seconds)
        return Injected(f"its clock is {seconds:+g} s off", (leader.node_id,))


class ClocksApart(ClockSkew):
    """No two nodes' clocks agree."""

    name = "clocks-apart"
    summary = "every node's wall clock is off by another 0.2 to 60 s"

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        off = {
            name: draw.choice((-1, 1)) * draw.uniform(0.2, 60.0) for name in context.cluster.nodes
        }
        for name, seconds in off.items():
            self.move(name, seconds)
        told = ", ".join(f"{name} {seconds:+.1f} s" for name, seconds in off.items())
        return Injected(f"clocks are off: {told}")


class ClockStrobes(ClockSkew):
    """A node's clock jumps to and fro."""

    name = "clock-strobes"
    summary = "the leader's wall clock jumps to and fro by minutes, ten times a second"

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        seconds = draw.uniform(60.0, 600.0)
        await self.strobe(leader.node_id, seconds)
        return Injected(f"its clock strobes by {seconds:.0f} s", (leader.node_id,))
