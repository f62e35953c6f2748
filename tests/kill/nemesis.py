"""Random faults: kills, pauses and power cuts of any nodes, at any moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.cluster.processes import NodeStatus, ProcessCluster
from tests.kill.powercut import lose_unsynced

WAITS_S = (0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0)


class Nemesis:
    """Breaks a cluster and mends it, one fault at a time; ``deeds`` lists what it did."""

    def __init__(self, cluster: ProcessCluster, accounts: Path, seed: int) -> None:
        """``accounts`` is where the brokers' disks keep account of what is durable."""
        self._cluster = cluster
        self._accounts = accounts
        self._draw = random.Random(seed)
        self._down: set[str] = set()
        self._paused: set[str] = set()
        self.deeds: list[str] = []

    async def rage(self, for_s: float) -> None:
        """Inject and mend faults for ``for_s``, each as often as the other."""
        deeds: list[tuple[Callable[[str | None, list[str]], Sequence[str]], int]] = [
            (self._kill_leader, 2),
            (self._kill_any, 1),
            (self._pause_leader, 1),
            (self._pause_any, 1),
            (self._cut_power, 1),
            (self._start_one, 3),
            (self._resume_one, 3),
        ]
        weights = [weight for _, weight in deeds]
        loop = asyncio.get_running_loop()
        until_s = loop.time() + for_s
        while loop.time() < until_s:
            await asyncio.sleep(self._draw.choice(WAITS_S))
            up = [name for name in self._cluster.brokers if name not in self._down | self._paused]
            leader = await self._leader(up)
            [(deed, _)] = self._draw.choices(deeds, weights)
            nodes = deed(leader, up)
            if nodes:
                self.deeds.append(f"{deed.__name__.strip('_')} {' '.join(nodes)}")

    def relent(self) -> None:
        """End every fault."""
        for name in self._paused:
            self._cluster.resume(name)
        self._cluster.restart(*self._down)
        self._paused.clear()
        self._down.clear()

    async def _leader(self, up: Sequence[str]) -> str | None:
        statuses = await self._cluster.statuses(up) if up else {}
        for name, status in statuses.items():
            if isinstance(status, NodeStatus) and status.role == NodeStatus.ROLE_LEADER:
                return name
        return None

    def _kill(self, *names: str) -> Sequence[str]:
        self._cluster.kill(*names)
        self._down.update(names)
        self._paused.difference_update(names)
        return names

    def _kill_leader(self, leader: str | None, _up: list[str]) -> Sequence[str]:
        return self._kill(leader) if leader else ()

    def _kill_any(self, _leader: str | None, up: list[str]) -> Sequence[str]:
        return self._kill(self._draw.choice(up)) if up else ()

    def _pause(self, name: str) -> Sequence[str]:
        self._cluster.pause(name)
        self._paused.add(name)
        return (name,)

    def _pause_leader(self, leader: str | None, _up: list[str]) -> Sequence[str]:
        return self._pause(leader) if leader else ()

    def _pause_any(self, _leader: str | None, up: list[str]) -> Sequence[str]:
        return self._pause(self._draw.choice(up)) if up else ()

    def _cut_power(self, _leader: str | None, _up: list[str]) -> Sequence[str]:
        """Cut the power of any nodes, most often of all, even if they are down or paused."""
        everyone = sorted(self._cluster.brokers)
        names = self._draw.sample(everyone, self._draw.choice((1, 2, 3, 3)))
        self._kill(*names)
        lose_unsynced(self._accounts, [self._cluster.brokers[name].data_dir for name in names])
        return names

    def _start_one(self, _leader: str | None, _up: list[str]) -> Sequence[str]:
        if not self._down:
            return ()
        name = self._draw.choice(sorted(self._down))
        self._cluster.restart(name)
        self._down.discard(name)
        return (name,)

    def _resume_one(self, _leader: str | None, _up: list[str]) -> Sequence[str]:
        if not self._paused:
            return ()
        name = self._draw.choice(sorted(self._paused))
        self._cluster.resume(name)
        self._paused.discard(name)
        return (name,)
