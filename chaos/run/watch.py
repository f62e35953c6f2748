"""Which nodes led and which answered, over the whole run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chaos.cluster.cluster import Cluster, NodeStatus

EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Sight:
    """The state of a node from ``at_s`` until its next sight."""

    at_s: float
    state: str
    """LEADER, FOLLOWER and the like, or "down", "paused", "no answer: ..."."""
    term: int = 0
    commit_index: int = 0


def elections(sights: Mapping[str, Sequence[Sight]]) -> list[float]:
    """When each term after the first that was seen got its leader."""
    began: dict[int, float] = {}
    for sight in sorted((one for of in sights.values() for one in of), key=lambda one: one.at_s):
        if sight.state == "LEADER":
            began.setdefault(sight.term, sight.at_s)
    return [at_s for _, at_s in sorted(began.items())][1:]


class Watch:
    """Asks every node for its status separately: a silent node does not delay the others."""

    def __init__(self, cluster: Cluster, now_s: Callable[[], float]) -> None:
        self._cluster = cluster
        self._now_s = now_s
        self._tasks: list[asyncio.Task[None]] = []
        self.sights: dict[str, list[Sight]] = {name: [] for name in cluster.nodes}

    def start(self) -> None:
        """Start watching."""
        self._tasks = [asyncio.create_task(self._look(name)) for name in self.sights]

    async def stop(self) -> None:
        """Stop watching; raise what ended a watch early."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _look(self, name: str) -> None:
        sights = self.sights[name]
        while True:
            asked_s = self._now_s()
            status = await self._cluster.node_status(name)
            if isinstance(status, str):
                sight = Sight(asked_s, status)
            else:
                role = NodeStatus.Role.Name(status.role).removeprefix("ROLE_")
                sight = Sight(self._now_s(), role, status.term, status.commit_index)
            if not sights or (sight.state, sight.term) != (sights[-1].state, sights[-1].term):
                sights.append(sight)
            await asyncio.sleep(EVERY_S)
