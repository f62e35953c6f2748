"""The faults of a simulated cluster: each begins at its step and ends by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.simulation.play.late_answers import LateAnswers
from tests.simulation.world.hardware import USUAL_FSYNC_S
from tests.simulation.world.host import Machine
from tests.simulation.world.network import ModelledNetwork
from tests.simulation.world.virtual_loop import VirtualLoop
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft.log_api import Role

USUAL_LATENCY_S = (0.0002, 0.001)

WEIGHTS = {
    "kill": 4,
    "cut_power": 3,
    "cut_all_power": 1,
    "pause": 4,
    "stall": 2,
    "stall_all": 1,
    "isolate": 3,
    "one_way": 3,
    "break_links": 3,
    "slow_disk": 2,
    "very_slow_disk": 2,
    "broken_disk": 1,
    "slow_network": 2,
    "hand_over": 3,
    "set_clock": 1,
}


class Victim(Protocol):
    """A cluster into which faults are injected."""

    loop: VirtualLoop
    network: ModelledNetwork

    @property
    def machines(self) -> Sequence[Machine]: ...

    def leader(self) -> Machine | None: ...

    def note(self, what: str) -> None: ...


class Faults:
    """Injects faults. Every method is a kind of step and draws from that step's randomness."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._handing_over: asyncio.Task[None] | None = None

    def kill(self, draw: random.Random) -> None:
        host = self._host(draw)
        if host is not None:
            self._victim.note(f"{host.name} is killed")
            host.kill()
            self._restart_later(host, draw.uniform(0.01, 2.0))

    def cut_power(self, draw: random.Random) -> None:
        host = self._host(draw)
        if host is not None:
            self._victim.note(f"power cut at {host.name}")
            host.cut_power()
            self._restart_later(host, draw.uniform(0.05, 2.0))

    def cut_all_power(self, draw: random.Random) -> None:
        self._victim.note("power cut everywhere")
        for host in self._victim.machines:
            if host.up:
                host.cut_power()
            self._restart_later(host, draw.uniform(0.05, 1.0))

    def pause(self, draw: random.Random) -> None:
        self._pause(self._host(draw, leader=0.7), draw.uniform(0.05, 2.5))

    def stall(self, draw: random.Random) -> None:
        """Hold a node's loop for longer than allowed."""
        self._pause(self._host(draw, leader=0.7), draw.uniform(0.05, 0.3))

    def stall_all(self, draw: random.Random) -> None:
        """Hold all loops, as if all nodes were on one overloaded machine."""
        for host in self._victim.machines:
            if host.up and not host.paused:
                self._pause(host, draw.uniform(0.05, 0.3))

    def isolate(self, draw: random.Random) -> None:
        host = self._host(draw, leader=0.7)
        if host is not None:
            self._victim.note(f"{host.name} is cut off")
            for other in self._others(host):
                self._block(host.name, other, draw.uniform(0.2, 3.0))
                self._block(other, host.name, draw.uniform(0.2, 3.0))

    def one_way(self, draw: random.Random) -> None:
        host = self._host(draw)
        if host is not None:
            other = draw.choice(self._others(host))
            self._victim.note(f"nothing gets from {host.name} to {other}")
            self._block(host.name, other, draw.uniform(0.1, 2.0))

    def break_links(self, draw: random.Random) -> None:
        host = self._host(draw)
        if host is not None:
            other = draw.choice(self._others(host))
            self._victim.note(f"connection of {host.name} and {other} breaks")
            self._victim.network.break_links(host.name, other)

    def slow_disk(self, draw: random.Random) -> None:
        self._slow_disk(self._host(draw), (0.02, 0.3), draw.uniform(0.2, 2.0))

    def very_slow_disk(self, draw: random.Random) -> None:
        """Make a disk slower than an election."""
        self._slow_disk(self._host(draw, leader=0.7), (0.3, 0.9), draw.uniform(0.2, 1.0))

    def broken_disk(self, draw: random.Random) -> None:
        """Make the next fsync fail: the process ends, and its disk is as after a power cut."""
        host = self._host(draw)
        if host is not None:
            self._victim.note(f"the disk of {host.name} fails")
            host.fail_disk()
            self._later(draw.uniform(0.2, 1.0), lambda: self._repair(host, draw))

    def slow_network(self, draw: random.Random) -> None:
        conditions = self._victim.network.conditions
        slowest_s = draw.choice((0.02, 0.1))
        self._victim.note(f"the network takes up to {slowest_s} s")
        conditions.latency_s = (0.001, slowest_s)
        for_s = draw.uniform(0.2, 2.0)
        self._later(for_s, lambda: setattr(conditions, "latency_s", USUAL_LATENCY_S))

    def hand_over(self, draw: random.Random) -> None:
        leader = self._victim.leader()
        if leader is None or leader.paused:
            return
        self._begin_hand_over(leader, draw.choice([None, *self._others(leader)]))

    def late_answers(self, draw: random.Random) -> None:
        """Move leadership away and back, with late answers of the earlier leadership."""
        leader = self._victim.leader()
        if leader is not None and not leader.paused:
            LateAnswers(self._victim, draw, leader, self._begin_hand_over).begin()

    def set_clock(self, draw: random.Random) -> None:
        """Step a wall clock by seconds or by hours."""
        host = draw.choice(self._victim.machines)
        reach_ms = draw.choice((3_000, 20_000, 7_200_000))
        host.clock.offset_ms = draw.randint(-reach_ms, reach_ms)
        self._victim.note(f"the clock of {host.name} is set {host.clock.offset_ms} ms off")

    # ------------------------------------------------------------------ how

    def _host(self, draw: random.Random, *, leader: float = 0.5) -> Machine | None:
        """Draw a host that runs; the leader with probability ``leader``."""
        up = [host for host in self._victim.machines if host.up and not host.paused]
        leading = self._victim.leader()
        if not up:
            return None
        if leading in up and draw.random() < leader:
            return leading
        return draw.choice(up)

    def _others(self, host: Machine) -> list[str]:
        return [other.name for other in self._victim.machines if other is not host]

    def _later(self, delay_s: float, end: Callable[[], None]) -> None:
        self._victim.loop.call_later(delay_s, end)

    def _restart_later(self, host: Machine, delay_s: float) -> None:
        self._later(delay_s, lambda: self._restart(host))

    def _restart(self, host: Machine) -> None:
        if not host.up and not host.disk.fail_syncs:
            self._victim.note(f"{host.name} starts")
            host.begin()

    def _pause(self, host: Machine | None, for_s: float) -> None:
        if host is not None:
            self._victim.note(f"{host.name} stands still for {for_s:.3f} s")
            process = host.host_loop
            process.pause()
            self._later(for_s, process.resume)

    def _block(self, source: str, target: str, for_s: float) -> None:
        network = self._victim.network
        network.block(source, target)
        self._later(for_s, lambda: network.unblock(source, target))

    def _slow_disk(self, host: Machine | None, delay_s: tuple[float, float], for_s: float) -> None:
        if host is not None:
            self._victim.note(f"an fsync of {host.name} takes {delay_s[0]} to {delay_s[1]} s")
            syncer = host.syncer
            syncer.delay_s = delay_s
            self._later(for_s, lambda: setattr(syncer, "delay_s", USUAL_FSYNC_S))

    def _repair(self, host: Machine, draw: random.Random) -> None:
        if host.disk.fail_syncs:
            if host.up:
                host.kill()
            host.repair_disk(draw)
            self._restart(host)

    def _begin_hand_over(self, leader: Machine, heir: str | None) -> None:
        if leader.up:
            self._victim.note(f"{leader.name} hands over to {heir or 'whom it likes'}")
            self._handing_over = leader.host_loop.create_task(self._hand_over(leader, heir))

    async def _hand_over(self, leader: Machine, heir: str | None) -> None:
        if leader.replica.status().role is not Role.LEADER:
            return
        try:
            await leader.replica.transfer_leadership(heir, 1.0)
        except (NotLeaderError, TimeoutError) as error:
            self._victim.note(f"handing over: {type(error).__name__}")
