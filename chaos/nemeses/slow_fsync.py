"""F13: some fsyncs take long, which must not cause an election."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from chaos.cluster import preload
from chaos.cluster.broker import NodeSetup
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport

DELAY_MS = 300
ONE_IN = 20


class SlowFsyncs(Nemesis):
    """On every node one fsync in twenty takes 300 ms; the leader stays the leader."""

    name = "slow-fsyncs"
    faults = ("F13",)
    summary = "one fsync in twenty takes 300 ms on every node: no leader loses its place"
    transports = frozenset({Transport.PROCESSES, Transport.NETLAB})
    hold_s = (3.0, 4.0)
    alone = True

    def __init__(self) -> None:
        self._library: Path | None = None
        self._files: dict[str, Path] = {}
        self._led_by: tuple[str, int] | None = None

    def needs(self) -> str | None:
        return preload.missing()

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        self._library = await preload.build("slow_fsync", folder)
        self._files = {name: folder / f"{name}.slow-fsync" for name in node_ids}

    def setup(self, node_id: str) -> NodeSetup:
        return NodeSetup(
            environment={
                "LD_PRELOAD": str(self._library),
                "SLOW_FSYNC_FILE": str(self._files[node_id]),
            }
        )

    def slow_down(self, delay_ms: int, one_in: int) -> None:
        """Delay one in ``one_in`` fsyncs on every node by ``delay_ms``; 0: none."""
        for file in self._files.values():
            partial = file.with_suffix(".partial")
            partial.write_text(f"{delay_ms} {one_in}")
            partial.replace(file)

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        leader = await context.cluster.await_leader(within_s=self.within_s)
        self._led_by = (leader.node_id, leader.term)
        self.slow_down(DELAY_MS, ONE_IN)
        return Injected(f"one fsync in {ONE_IN} takes {DELAY_MS} ms")

    async def heal(self, context: RunContext) -> None:
        self.slow_down(0, 0)
        led_by, self._led_by = self._led_by, None
        if led_by is None:
            return
        leader = await context.cluster.await_leader(within_s=self.within_s)
        if (leader.node_id, leader.term) != led_by:
            context.accuse(
                "no needless election",
                f"{led_by[0]} led in term {led_by[1]}, and {leader.node_id} does in {leader.term}:"
                " all that happened is that fsyncs were slow",
            )
