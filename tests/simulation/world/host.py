"""One simulated machine: a disk, a clock that is off, and at times a process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pysyncobj import syncobj

from tests.raft.modelled_disk import ModelledDisk, PowerCutError
from tests.simulation.world.checker import Checker
from tests.simulation.world.hardware import USUAL_FSYNC_S, Oscillator, SlowSyncer, WallClock
from tests.simulation.world.network import ModelledNetwork
from tests.simulation.world.state import Applied, KeepingMachine, ModelledStates, StateDisk
from tests.simulation.world.virtual_loop import HostLoop, VirtualLoop
from tests.simulation.world.watched_journal import WatchedJournal
from tq_cluster.errors import FatalError, StartError
from tq_cluster.raft.formation import Membership
from tq_cluster.raft.identity import EMPTY_ORIGIN, MemberList, Origin
from tq_cluster.raft.journal import JournalLimits
from tq_cluster.raft.log_api import LogStatus, Role, StateMachine
from tq_cluster.raft.members import counted, require_may_form, settle
from tq_cluster.raft.replica import Replica
from tq_cluster.raft.secret import NONCE_BYTES, Secret
from tq_cluster.raft.settings import RaftSettings
from tq_cluster.raft.snapshots import States
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
    members: MemberList | None = None
    origin: Origin = EMPTY_ORIGIN
    newcomer: bool = False

    def join(self, cluster_id: str, members: MemberList, *, newcomer: bool = False) -> None:
        self.cluster_id = cluster_id
        self.members = members
        self.newcomer = newcomer

    def record(self, members: MemberList) -> None:
        self.members = members


@dataclass
class DrawnSecret:
    """Implements ``secret.Secret`` without a file."""

    draw: random.Random
    keys: tuple[bytes, ...] = (b"the secret of the simulated cluster",)
    required: bool = True

    def nonce(self) -> bytes:
        return self.draw.randbytes(NONCE_BYTES)


class Machine:
    """A member of the simulated cluster; subclasses define the state of its process."""

    def __init__(
        self,
        *,
        name: str,
        members: dict[str, str],
        loop: VirtualLoop,
        network: ModelledNetwork,
        settings: RaftSettings,
        seed: str,
        skewed: bool = False,
        limits: JournalLimits = SMALL_JOURNAL,
    ) -> None:
        self.name = name
        self._limits = limits
        self._members = members
        self.file = dict(members)
        """The members in its file, which a fault may edit; a start reads it."""
        self.single = len(members) == 1
        self._loop = loop
        self._network = network
        self._settings = settings
        self._seed = seed
        self._starts = 0
        self.refused = ""
        """The reason why the last start ended at once; empty: it did not."""
        self.lost_upto = 0
        """The last entry acknowledged when its disk was lost: the new disk lacks some entries up to
        it."""
        self.draw = random.Random(f"{seed}/{name}")
        self.disk = ModelledDisk()
        self.identity = Identity(name, f"disk of {name}")
        oscillator = Oscillator.drawn(self.draw) if skewed else Oscillator()
        self.clock = WallClock(loop, self.draw.randint(-2_000, 2_000), oscillator)
        self.cluster_version = 0
        """The cluster version in the state."""
        self.secret: Secret | None = None
        """The secret that the members prove to each other."""
        self.checker: Checker | None = None
        self.on_start: list[Callable[[Any], None]] = []
        """Called with this machine whenever a process starts on it."""
        self.on_lead: list[Callable[[Any], None]] = []
        """Called with this machine whenever it becomes the leader."""
        self.on_death: Callable[[Any, BaseException], None] | None = None
        self._replica: Replica | None = None
        self.journal: WatchedJournal
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
    def state_index(self) -> int:
        """The last entry applied in a commit that is on disk."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the process

    async def start(self) -> None:
        """Start a process, and return once it listens."""
        self.begin()
        await asyncio.sleep(0)

    def begin(self) -> None:
        """Start a process."""
        assert not self.up
        self._starts += 1
        self.refused = ""
        if self.name not in self.file:
            self.refused = f"{self.name} is not among the members"  # as config.py does
            return
        try:
            require_may_form(self.identity.cluster_id, self.file, single=self.single)
            counted(self.identity.members, self.file)
        except StartError as error:
            self.refused = str(error)
            return
        oscillator = self.clock.oscillator
        self.host_loop = HostLoop(self._loop, started_s=oscillator.started_s, rate=oscillator.rate)
        draw = random.Random(f"{self._seed}/{self.name}/{self._starts}")
        self.host_loop.within(lambda: self._assemble(draw))
        started = self.host_loop.create_task(self.replica.start())
        started.add_done_callback(self._started)

    def _assemble(self, draw: random.Random) -> None:
        self.syncer = SlowSyncer(self.host_loop, draw)
        self.journal = WatchedJournal(
            self.disk, self.syncer, on_fatal=self._died, limits=self._limits
        )
        machine, states = self._open_state(draw)
        why = settle(self.identity, self._membership(), machine.applied.index)
        assert not why, why
        if self.checker is not None:
            self.checker.opened(self)
            self.journal.watched_by(self.checker, self)
        self._replica = Replica(
            identity=self.identity,
            members=self.file,
            journal=self.journal,
            machine=machine,
            states=states,
            network=self._network.of_host(self.name, self.host_loop),
            clock=self.clock,
            draw=draw,
            fatal=self._died,
            membership=self._membership,
            cluster_version=lambda: self.cluster_version,
            settings=self._settings,
            loop=self.host_loop,
            secret=self.secret,
        )
        # The core takes the time from the process that was started last.
        syncobj.monotonicTime = _running_time_s
        self.replica.on_role_change(self._saw_role)
        self._attach(draw)
        for listener in self.on_start:
            listener(self)
        self._commit_state(self.host_loop)

    def _started(self, task: asyncio.Task[None]) -> None:
        error = task.exception()
        if error is not None:
            self._loop.fail(error)

    def _open_state(self, draw: random.Random) -> tuple[StateMachine, States]:
        """Open the state on the disk, and align the journal with it."""
        raise NotImplementedError

    def _attach(self, draw: random.Random) -> None:
        """Attach the other parts of the process to the log."""

    def _membership(self) -> Membership | None:
        return None

    def _commit_state(self, host_loop: HostLoop) -> None:
        """Commit the state from time to time while that process lives."""
        raise NotImplementedError

    def _saw_applied(self, applied: Applied) -> None:
        if self.checker is not None:
            self.checker.applied(self, applied)

    def _saw_role(self, status: LogStatus) -> None:
        if status.role is not Role.LEADER:
            return
        if self.checker is not None:
            self.checker.leads(self, status.term)
        for listener in self.on_lead:
            listener(self)

    def _died(self, error: BaseException) -> None:
        if self.up:
            self.kill()
        if not isinstance(error, FatalError) or self.on_death is None:
            self._loop.fail(error)
        else:
            self.on_death(self, error)

    # ------------------------------------------------------------------ faults

    def kill(self) -> None:
        """SIGKILL: what the operating system has stays; writes under way may be lost."""
        job = self._end_process(silently=False)
        if job is not None:
            self.disk.steps_left = self.draw.randint(0, 6)
            with contextlib.suppress(PowerCutError, OSError):
                job()
            self.disk.steps_left = None

    def cut_power(self) -> None:
        """Cut the power: unsynced writes are lost, torn, or kept by chance."""
        self._end_process(silently=self.draw.random() < 0.5)
        self.disk = self.disk.power_cut(self.draw)

    def fail_disk(self) -> None:
        """Make every fsync fail: the process must end without an acknowledgement."""
        self.disk.fail_syncs = True

    def repair_disk(self, draw: random.Random) -> None:
        """Let fsyncs work again; some unsynced writes may have survived."""
        self.disk = self.disk.power_cut(draw)

    def _end_process(self, *, silently: bool) -> Callable[[], None] | None:
        assert self.up
        self.host_loop.end()
        self._replica = None
        self._network.host_died(self.name, silently=silently)
        return self.syncer.interrupted()

    def pause(self) -> None:
        self.host_loop.pause()

    def recover(self, draw: random.Random) -> None:
        """End every fault of this machine."""
        self.resume()
        if self.disk.fail_syncs:
            if self.up:
                self.kill()
            self.repair_disk(draw)
        if not self.up:
            self.begin()
        self.syncer.delay_s = USUAL_FSYNC_S

    def resume(self) -> None:
        if self.up and self.host_loop.paused:
            self.host_loop.resume()


class Host(Machine):
    """A member whose state is the entries it has applied."""

    machine: KeepingMachine
    states: ModelledStates

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as Machine has them
        super().__init__(**options)
        self.state_disk = StateDisk()
        self._disks = 1
        self._old_disk: tuple[ModelledDisk, StateDisk, Identity] | None = None
        self.align: Callable[[Host], object] = _align

    @property
    def state_index(self) -> int:
        return self.state_disk.durable[-1][0]

    def _open_state(self, draw: random.Random) -> tuple[StateMachine, States]:
        self.machine = KeepingMachine(self.state_disk, self._saw_applied)
        self.align(self)
        self.states = ModelledStates(self.machine, self.host_loop, draw)
        return self.machine, self.states

    def _commit_state(self, host_loop: HostLoop) -> None:
        if host_loop is self.host_loop:
            self.machine.commit()
            host_loop.call_later(STATE_COMMIT_S, self._commit_state, host_loop)

    def _membership(self) -> Membership | None:
        members = self.machine.members
        return None if members is None else (self.identity.cluster_id or "", members)

    # ------------------------------------------------------------------ its disk

    def lose_disk(self) -> None:
        """Lose the disk; the next process starts with an empty one."""
        if self.up:
            self.kill()
        self._disks += 1
        self.disk = ModelledDisk()
        self.state_disk = StateDisk()
        self.identity = Identity(self.name, f"disk {self._disks} of {self.name}")

    def keep_old_disk(self) -> None:
        """Put the disk aside as it is, so that it can come back later."""
        if self.up:
            self.kill()
        self._old_disk = (self.disk, self.state_disk, self.identity)

    @property
    def has_old_disk(self) -> bool:
        return self._old_disk is not None

    def forget_old_disk(self) -> None:
        """Drop the disk that was put aside."""
        self._old_disk = None

    def swap_disks(self) -> None:
        """Use the disk that was put aside, and put the present one aside."""
        if self.up:
            self.kill()
        assert self._old_disk is not None
        aside = (self.disk, self.state_disk, self.identity)
        self.disk, self.state_disk, self.identity = self._old_disk
        self._old_disk = aside


def _align(host: Host) -> None:
    """Start-up's alignment (rule R10)."""
    align(host.journal, host.machine.applied, host.state_disk.installed)
    host.state_disk.installed = None


def _running_time_s() -> float:
    loop = asyncio._get_running_loop()
    return time.monotonic() if loop is None else loop.time()
