"""F9: a node dies at one exact place in its work."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from chaos.cluster.broker import NodeSetup
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport

LAUNCHER = ("-m", "tests.chaos.failpoint_broker")
"""tq-cluster with marked places at which it can be made to die; the product does not have them."""
FILE_VARIABLE = "FAILPOINT_FILE"
SMALL_JOURNAL_VARIABLE = "SMALL_JOURNAL"
POINTS = (
    "journal append",
    "journal fsync",
    "vote",
    "acknowledgement",
    "state commit",
    "state sync",
    "compaction",
)
"""Each place, with a side: before it has happened, or after."""
SNAPSHOT_POINTS = ("snapshot copied", "snapshot installed", "pointer switched")
HIT_S = 6.0
POLL_S = 0.02


class Failpoint(Nemesis):
    """Makes a node die the next time it reaches a place, and waits until it has died."""

    name = "failpoint"
    faults: ClassVar[tuple[str, ...]] = ("F9",)
    summary = "a node dies around a journal write, an fsync, a vote, an ack, a commit, a compaction"
    transports = frozenset({Transport.PROCESSES, Transport.NETLAB})
    hold_s = (0.2, 0.8)
    points: ClassVar[tuple[str, ...]] = POINTS

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}
        self._down: list[str] = []
        self._order: list[tuple[str, str]] = []

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        self._files = {name: folder / f"{name}.failpoint" for name in node_ids}

    def setup(self, node_id: str) -> NodeSetup:
        return NodeSetup(
            launcher=LAUNCHER,
            environment={FILE_VARIABLE: str(self._files[node_id]), SMALL_JOURNAL_VARIABLE: "1"},
        )

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        if not self._order:
            self._order = [(point, side) for point in self.points for side in ("before", "after")]
            draw.shuffle(self._order)
        point, side = self._order.pop()
        leader = await context.cluster.await_leader(within_s=self.within_s)
        victim = draw.choice([leader.node_id, draw.choice(sorted(context.cluster.nodes))])
        hit = await self.strike(context, victim, f"{side} {point}")
        return Injected(f"{'died' if hit else 'never came to be'} {side}: {point}", (victim,))

    async def strike(self, context: RunContext, node_id: str, place: str) -> bool:
        """Arm the place and wait until the node has died there."""
        self._files[node_id].write_text(place)
        if place.endswith("vote"):
            # There is a vote only if a node stands for election.
            other = await context.cluster.await_leader(within_s=self.within_s)
            if other.node_id != node_id:
                await context.cluster.crash(other.node_id)
                self._down.append(other.node_id)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + HIT_S
        while loop.time() < until_s:
            if context.cluster.nodes[node_id].exited() is not None:
                await context.cluster.crash(node_id)
                self._down.append(node_id)
                return True
            await asyncio.sleep(POLL_S)
        self._files[node_id].unlink(missing_ok=True)
        return False

    async def heal(self, context: RunContext) -> None:
        for file in self._files.values():
            file.unlink(missing_ok=True)
        down, self._down = self._down, []
        await context.cluster.revive(*down)


class SnapshotFailpoint(Failpoint):
    """A follower that is behind the compacted journals dies while it gets a snapshot."""

    name = "snapshot-failpoint"
    faults = ("F9", "F18")
    summary = "a lagging follower, or its leader, dies while a snapshot is made, sent, installed"
    points: ClassVar[tuple[str, ...]] = SNAPSHOT_POINTS
    within_s = 60.0

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        if not self._order:
            self._order = [(point, side) for point in self.points for side in ("before", "after")]
            draw.shuffle(self._order)
        point, side = self._order.pop()
        leader = await context.cluster.await_leader(within_s=self.within_s)
        behind = draw.choice([name for name in context.cluster.nodes if name != leader.node_id])
        await context.cluster.crash(behind)
        self._down = [behind]
        await self._leave_behind(context, leader.commit_index)
        victim = leader.node_id if point == "snapshot copied" else behind
        self._down = []
        self._files[victim].write_text(f"{side} {point}")
        await context.cluster.revive(behind)
        hit = await self.strike(context, victim, f"{side} {point}")
        return Injected(f"{'died' if hit else 'never came to be'} {side}: {point}", (victim,))

    async def _leave_behind(self, context: RunContext, index: int) -> None:
        """Wait until the journals no longer hold the entry that the dead node needs next."""

        async def far() -> bool | None:
            leader = await context.cluster.await_leader(within_s=self.within_s)
            return leader.commit_index > index + LEFT_BEHIND or None

        await context.cluster.await_fact(f"{LEFT_BEHIND} entries more", far, self.within_s)
        await asyncio.sleep(COMPACTED_S)


LEFT_BEHIND = 400
COMPACTED_S = 2.5
"""The time within which a journal that can be compacted is compacted."""
