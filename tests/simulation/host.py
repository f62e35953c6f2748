"""One simulated machine: a disk, a clock that is off, and now and then a process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.raft.modelled_disk import ModelledDisk, PowerCutError
from tests.simulation.checker import Checker
from tests.simulation.network import ModelledNetwork
from tests.simulation.state import Applied, KeepingMachine, ModelledStates, StateDisk
from tests.simulation.virtual_loop import HostLoop, VirtualLoop
from tq_cluster.errors import FatalError
from tq_cluster.raft.door import LogStatus, Role
from tq_cluster.raft.identity import EMPTY_ORIGIN, Origin
from tq_cluster.raft.journal import Journal, JournalLimits
from tq_cluster.raft.replica import Replica
from tq_cluster.raft.settings import RaftSettings
from tq_cluster.raft.startup import align

SMALL_JOURNAL = JournalLimits(
    segment_bytes=2_000, retain_bytes=6_000, retain_entries=40, cache_bytes=4_000
)
STATE_COMMIT_S = 0.2


@dataclass
class Identity:
    """Implements ``formation.NodeIdentity``; outlives the process."""

    node_id: str
    incarnation: str
    group_id: int = 0
    cluster_id: str | None = None
    origin: Origin = EMPTY_ORIGIN

    def join(self, cluster_id: str) -> None:
        self.cluster_id = cluster_id


@dataclass
class WallClock:
    """A wall clock that is off by a constant."""

    loop: VirtualLoop
    offset_ms: int

    def monotonic_s(self) -> float:
        return self.loop.time()

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.offset_ms + int(self.loop.time() * 1000)


class SlowSyncer:
    """Implements ``syncer.Syncer``: each job takes a while, and a dead process finishes none."""

    def __init__(self, loop: HostLoop, draw: random.Random) -> None:
        self.delay_s: tuple[float, float] = (0.0002, 0.004)
        self._loop = loop
        self._draw = draw
        self._job: Callable[[], None] | None = None
        self._done: Callable[[BaseException | None], None] | None = None

    def run(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        assert self._job is None, "one job at a time"
        self._job, self._done = job, done
        self._loop.call_later(self._draw.uniform(*self.delay_s), self._end, job)

    def finish(self) -> None:
        if self._job is not None:
            self._end(self._job)

    def _end(self, job: Callable[[], None]) -> None:
        if self._job is not job:
            return
        done, self._job, self._done = self._done, None, None
        assert done is not None
        job()
        done(None)

    def interrupted(self) -> Callable[[], None] | None:
        """The job that was under way, never to be reported."""
        job, self._job = self._job, None
        return job


class Host:
    """A member of the simulated cluster."""

    def __init__(
        self,
        *,
        name: str,
        members: dict[str, str],
        loop: VirtualLoop,
        network: ModelledNetwork,
        settings: RaftSettings,
        seed: str,
    ) -> None:
        self.name = name
        self._members = members
        self._loop = loop
        self._network = network
        self._settings = settings
        self._seed = seed
        self._starts = 0
        self.draw = random.Random(f"{seed}/{name}")
        self.disk = ModelledDisk()
        self.state_disk = StateDisk()
        self.identity = Identity(name, f"disk of {name}")
        self.clock = WallClock(loop, self.draw.randint(-2_000, 2_000))
        self.checker: Checker | None = None
        self.on_start: list[Callable[[Host], None]] = []
        self.on_death: Callable[[Host, BaseException], None] | None = None
        self.align: Callable[[Host], object] = _align
        self._replica: Replica | None = None
        self.journal: Journal
        self.machine: KeepingMachine
        self.host_loop: HostLoop
        self.syncer: SlowSyncer

    @property
    def up(self) -> bool:
        return self._replica is not None

    @property
    def replica(self) -> Replica:
        assert self._replica is not None, f"{self.name} is down"
        return self._replica

    @property
    def paused(self) -> bool:
        return self.up and self.host_loop.paused

    @property
    def state_entries(self) -> list[Applied]:
        return self.state_disk.durable

    # ------------------------------------------------------------------ the process

    async def start(self) -> None:
        assert not self.up
        self._starts += 1
        draw = random.Random(f"{self._seed}/{self.name}/{self._starts}")
        self.host_loop = host_loop = HostLoop(self._loop)
        self.syncer = SlowSyncer(host_loop, draw)
        self.machine = KeepingMachine(self.state_disk, self._saw_applied)
        self.journal = Journal(self.disk, self.syncer, on_fatal=self._died, limits=SMALL_JOURNAL)
        self.align(self)
        replica = self._replica = Replica(
            identity=self.identity,
            members=self._members,
            journal=self.journal,
            machine=self.machine,
            states=ModelledStates(self.machine, host_loop, draw),
            network=self._network.of_host(self.name, host_loop),
            clock=self.clock,
            draw=draw,
            fatal=self._died,
            membership=lambda: None,
            settings=self._settings,
            loop=host_loop,  # type: ignore[arg-type]  # as much of a loop as a replica needs
        )
        replica.on_role_change(self._saw_role)
        for listener in self.on_start:
            listener(self)
        self._commit_state(host_loop)
        await replica.start()

    def _commit_state(self, host_loop: HostLoop) -> None:
        if host_loop is self.host_loop:
            self.machine.commit()
            host_loop.call_later(STATE_COMMIT_S, self._commit_state, host_loop)

    def _saw_applied(self, applied: Applied) -> None:
        if self.checker is not None:
            self.checker.applied(self, applied)

    def _saw_role(self, status: LogStatus) -> None:
        if status.role is Role.LEADER and self.checker is not None:
            self.checker.leads(self, status.term)

    def _died(self, error: BaseException) -> None:
        self.kill()
        if not isinstance(error, FatalError) or self.on_death is None:
            self._loop.fail(error)
        else:
            self.on_death(self, error)

    # ------------------------------------------------------------------ faults

    def kill(self) -> None:
        """SIGKILL: what the operating system has stays; what was under way may not be there."""
        job = self._end_process(silently=False)
        if job is not None:
            self.disk.steps_left = self.draw.randint(0, 6)
            with contextlib.suppress(PowerCutError):
                job()
            self.disk.steps_left = None

    def cut_power(self) -> None:
        """What was not synced is gone, or torn, or there by luck."""
        self._end_process(silently=self.draw.random() < 0.5)
        self.disk = self.disk.power_cut(self.draw)

    def _end_process(self, *, silently: bool) -> Callable[[], None] | None:
        assert self.up
        self.host_loop.end()
        self._replica = None
        self._network.host_died(self.name, silently=silently)
        return self.syncer.interrupted()

    def pause(self) -> None:
        self.host_loop.pause()

    def resume(self) -> None:
        if self.up and self.host_loop.paused:
            self.host_loop.resume()


def _align(host: Host) -> None:
    """Start-up's alignment (rule R10)."""
    align(host.journal, host.machine.applied, host.state_disk.installed)
    host.state_disk.installed = None
