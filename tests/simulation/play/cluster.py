"""A simulated cluster under load, its faults, and queries for tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.play.faults import USUAL_LATENCY_S
from tests.simulation.world.checker import Checker
from tests.simulation.world.host import Host
from tests.simulation.world.network import ModelledNetwork
from tests.simulation.world.virtual_loop import VirtualLoop
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import NotLeaderError, OutcomeUnknownError, TqError
from tq_cluster.raft.settings import RaftSettings

LOAD_SLICE_S = 0.5
"""The length of one step of load."""


@dataclass
class Load:
    """The load of the callers while ``on``."""

    on: bool = True
    pause_s: tuple[float, float] = (0.0, 0.05)
    entry_bytes: tuple[int, ...] = (10, 60, 300)
    large_entry_bytes: int = 300_000
    large_share: float = 0.01
    proposed: int = 0
    acknowledged: int = 0
    unknown: int = 0
    confirmed: int = 0
    last_ack_s: float = 0.0
    trace: list[str] = field(default_factory=list)
    """What happened, in order: equal for equal seeds."""


class Cluster:
    """Hosts ``n1``, ``n2`` ... and their network."""

    def __init__(
        self,
        loop: VirtualLoop,
        seed: str,
        *,
        size: int = 3,
        settings: RaftSettings | None = None,
        skewed: bool = False,
    ) -> None:
        self.loop = loop
        self.draw = random.Random(seed)
        self.network = ModelledNetwork(loop, random.Random(f"{seed}/network"))
        names = [f"n{number + 1}" for number in range(size)]
        members = {name: f"{name}:7000" for name in names}
        self.hosts = {
            name: Host(
                name=name,
                members=members,
                loop=loop,
                network=self.network,
                settings=settings or RaftSettings(),
                seed=seed,
                skewed=skewed,
            )
            for name in names
        }
        self.checker = Checker(self.hosts)
        self.load = Load()
        self._load_slices = 0
        self.deaths: list[tuple[str, BaseException]] = []
        for host in self.hosts.values():
            host.checker = self.checker
            host.on_death = self._died
            host.on_start.append(self._attend)

    def stop_checking(self) -> None:
        """For a scenario in which no promise holds."""
        for host in self.hosts.values():
            host.checker = None

    async def start(self) -> None:
        for host in self.hosts.values():
            await host.start()

    @property
    def machines(self) -> list[Host]:
        return list(self.hosts.values())

    def _died(self, host: Host, error: BaseException) -> None:
        self.note(f"{host.name} died: {error}")
        if not host.disk.fail_syncs:
            self.deaths.append((host.name, error))

    def note(self, what: str) -> None:
        self.load.trace.append(f"{self.loop.time():.6f} {what}")

    # ------------------------------------------------------------------ callers

    def take_load(self) -> None:
        """Propose entries for a while."""
        self.load.on = True
        self._load_slices += 1
        for host in self.hosts.values():
            if host.up:
                self._propose_later(host)
        self.loop.call_later(LOAD_SLICE_S, self._end_load_slice)

    def _end_load_slice(self) -> None:
        self._load_slices -= 1
        self.load.on = self._load_slices > 0

    def _attend(self, host: Host) -> None:
        replica = host.replica
        replica.on_decidable(lambda: self._propose_later(host))
        replica.on_role_change(
            lambda status: self.note(f"{host.name} {status.role.value} {status.term}")
        )
        host.host_loop.call_later(0.1, self._confirm_now_and_then, host, host.host_loop)

    def _propose_later(self, host: Host) -> None:
        pause_s = self.draw.uniform(*self.load.pause_s)
        host.host_loop.call_later(pause_s, self.propose, host)

    def propose(self, host: Host, entry: bytes | None = None) -> asyncio.Future[None] | None:
        """Propose an entry of the load, or the given one, if the host can take one now."""
        if not host.up or (entry is None and not self.load.on):
            return None
        base = host.replica.decidable()
        if base is None:
            return None
        self.load.proposed += 1
        if entry is None:
            size = self.draw.choice(self.load.entry_bytes)
            if self.draw.random() < self.load.large_share:
                size = self.load.large_entry_bytes
            entry = f"{self.load.proposed}:".encode().ljust(size, b".")
        future = host.replica.propose(entry, base)
        future.add_done_callback(lambda done: self._answered(host, done, base, entry))
        return future

    def _answered(
        self, host: Host, done: asyncio.Future[None], base: AppliedAt, entry: bytes
    ) -> None:
        if host.host_loop.ended or done.cancelled():
            return
        error = done.exception()
        if isinstance(error, OutcomeUnknownError):
            self.load.unknown += 1
        elif error is not None:
            raise error
        else:
            self.load.acknowledged += 1
            self.load.last_ack_s = self.loop.time()
            self.note(f"{host.name} acked {base.index + 1} of {base.term}")
            self.checker.acknowledged(base.index + 1, base.term, entry)

    def _confirm_now_and_then(self, host: Host, of_loop: object) -> None:
        if host.host_loop is not of_loop or not host.up:
            return
        if self.load.on:
            self.confirm(host)
        host.host_loop.call_later(
            self.draw.uniform(0.02, 0.2), self._confirm_now_and_then, host, of_loop
        )

    def confirm(self, host: Host) -> asyncio.Future[AppliedAt] | None:
        """Ask the host whether it leads; check its answer against the acknowledged entries."""
        if not host.up:
            return None
        asked_after = max(self.checker.acked, default=0)
        future = host.replica.confirm()
        future.add_done_callback(lambda done: self._confirmed(host, done, asked_after))
        return future

    def _confirmed(self, host: Host, done: asyncio.Future[AppliedAt], asked_after: int) -> None:
        if host.host_loop.ended or done.cancelled():
            return
        error = done.exception()
        if isinstance(error, NotLeaderError):
            return
        if error is not None:
            raise error
        self.load.confirmed += 1
        self.checker.confirmed(asked_after, done.result().index, host.name)

    # ------------------------------------------------------------------ questions

    def leader(self) -> Host | None:
        """The host in the highest term that can take a proposal now."""
        leading = [
            host
            for host in self.hosts.values()
            if host.up and host.replica.status().leader_id == host.name
        ]
        return max(leading, key=lambda host: host.replica.status().term, default=None)

    def followers(self) -> list[Host]:
        leader = self.leader()
        return [host for host in self.hosts.values() if host is not leader]

    async def until(self, what: str, fact: Callable[[], bool], *, within_s: float = 10.0) -> None:
        """Let time pass until the fact holds; if it does not, say what was seen instead."""
        end_s = self.loop.time() + within_s
        while not fact():
            if self.loop.time() >= end_s:
                raise AssertionError(f"not within {within_s} s: {what}\n{self.describe()}")
            await asyncio.sleep(0.002)

    async def await_leader(self, *, within_s: float = 10.0) -> Host:
        def can_take() -> bool:
            leader = self.leader()
            return leader is not None and leader.replica.decidable() is not None

        await self.until("a leader that can take a proposal", can_take, within_s=within_s)
        leader = self.leader()
        assert leader is not None
        return leader

    async def put(self, entry: bytes, *, within_s: float = 10.0) -> int:
        """Get an entry acknowledged by the leader; return its index."""
        end_s = self.loop.time() + within_s
        while self.loop.time() < end_s:
            leader = await self.await_leader(within_s=within_s)
            base = leader.replica.decidable()
            future = self.propose(leader, entry)
            assert future is not None
            assert base is not None
            try:
                await asyncio.wait_for(future, end_s - self.loop.time())
            except (TqError, TimeoutError):
                continue
            return base.index + 1
        raise AssertionError(f"{entry!r} was not taken within {within_s} s\n{self.describe()}")

    async def settle(self, *, within_s: float = 20.0) -> None:
        """End all faults, and check that every node holds and applies the same."""
        self.load.on = False
        self.network.heal()
        self.network.conditions.latency_s = USUAL_LATENCY_S
        for host in self.hosts.values():
            host.recover(self.draw)
        await self.put(b"the last one", within_s=within_s)
        await self.until(
            "every node has applied the same",
            lambda: len({host.machine.applied for host in self.hosts.values()}) == 1,
            within_s=within_s,
        )
        self.checker.check_logs()
        self.checker.check_end((host.name, host.machine.entries) for host in self.hosts.values())

    def describe(self) -> str:
        lines = []
        for host in self.hosts.values():
            status = host.replica.status() if host.up else "down"
            lines.append(f"{host.name}{' (paused)' if host.paused else ''}: {status}")
        return "\n".join(lines)
