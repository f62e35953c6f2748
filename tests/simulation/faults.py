"""Random faults: one seed, one sequence of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.simulation.cluster import Cluster
from tests.simulation.host import Host


class Faults:
    """Hurts a cluster for a while."""

    def __init__(self, cluster: Cluster, draw: random.Random) -> None:
        self._cluster = cluster
        self._draw = draw

    async def run(self, for_s: float) -> None:
        """One fault after another; each ends by itself, so they overlap."""
        loop = self._cluster.loop
        end_s = loop.time() + for_s
        kinds: list[tuple[int, Callable[[], None]]] = [
            (4, self._kill),
            (3, self._cut_power),
            (1, self._cut_all_power),
            (4, self._pause),
            (3, self._isolate),
            (3, self._one_way),
            (3, self._break_links),
            (2, self._slow_disk),
            (2, self._slow_network),
            (2, self._transfer),
        ]
        weights = [weight for weight, _ in kinds]
        while loop.time() < end_s:
            await asyncio.sleep(self._draw.uniform(0.05, 1.2))
            (_, fault), *_ = self._draw.choices(kinds, weights)
            fault()

    def _host(self, *, leader: float = 0.5) -> Host | None:
        """A host that runs; the leader with that probability."""
        up = [host for host in self._cluster.hosts.values() if host.up and not host.paused]
        if not up:
            return None
        leading = self._cluster.leader()
        if leading in up and self._draw.random() < leader:
            return leading
        return self._draw.choice(up)

    def _later(self, least_s: float, most_s: float, end: Callable[[], None]) -> None:
        self._cluster.loop.call_later(self._draw.uniform(least_s, most_s), end)

    def _restart(self, host: Host) -> None:
        async def restart() -> None:
            if not host.up:
                self._cluster.note(f"{host.name} starts")
                await host.start()

        self._cluster.spawn(restart())

    def _kill(self) -> None:
        host = self._host()
        if host is not None:
            self._cluster.note(f"{host.name} is killed")
            host.kill()
            self._later(0.01, 2.0, lambda: self._restart(host))

    def _cut_power(self) -> None:
        host = self._host()
        if host is not None:
            self._cluster.note(f"power cut at {host.name}")
            host.cut_power()
            self._later(0.05, 2.0, lambda: self._restart(host))

    def _cut_all_power(self) -> None:
        self._cluster.note("power cut everywhere")
        for host in self._cluster.hosts.values():
            if host.up:
                host.resume()
                host.cut_power()
            self._later(0.05, 1.0, lambda host=host: self._restart(host))  # type: ignore[misc]

    def _pause(self) -> None:
        host = self._host(leader=0.7)
        if host is not None:
            self._cluster.note(f"{host.name} pauses")
            host.pause()
            self._later(0.05, 2.5, host.resume)

    def _isolate(self) -> None:
        host = self._host(leader=0.7)
        if host is not None:
            self._cluster.note(f"{host.name} is cut off")
            for other in self._others(host):
                self._block(host.name, other, 0.2, 3.0)
                self._block(other, host.name, 0.2, 3.0)

    def _one_way(self) -> None:
        host = self._host()
        if host is not None:
            other = self._draw.choice(self._others(host))
            self._cluster.note(f"nothing gets from {host.name} to {other}")
            self._block(host.name, other, 0.1, 2.0)

    def _break_links(self) -> None:
        host = self._host()
        if host is not None:
            other = self._draw.choice(self._others(host))
            self._cluster.note(f"connection of {host.name} and {other} breaks")
            self._cluster.network.break_links(host.name, other)

    def _others(self, host: Host) -> list[str]:
        return [name for name in self._cluster.hosts if name != host.name]

    def _block(self, source: str, target: str, least_s: float, most_s: float) -> None:
        network = self._cluster.network
        network.block(source, target)
        self._later(least_s, most_s, lambda: network.unblock(source, target))

    def _slow_disk(self) -> None:
        host = self._host()
        if host is not None:
            syncer = host.syncer
            syncer.delay_s = (0.02, 0.3)
            self._later(0.2, 2.0, lambda: setattr(syncer, "delay_s", (0.0002, 0.004)))

    def _slow_network(self) -> None:
        conditions = self._cluster.network.conditions
        conditions.latency_s = (0.001, self._draw.choice((0.02, 0.1)))
        self._later(0.2, 2.0, lambda: setattr(conditions, "latency_s", (0.0002, 0.001)))

    def _transfer(self) -> None:
        leader = self._cluster.leader()
        if leader is None or leader.paused:
            return
        replica = leader.replica
        self._cluster.note(f"{leader.name} hands over")

        async def transfer() -> None:
            try:
                await replica.transfer_leadership(None, 1.0)
            except Exception as error:  # noqa: BLE001 - every refusal is legal here
                self._cluster.note(f"transfer: {type(error).__name__}")

        self._cluster.spawn(transfer())
