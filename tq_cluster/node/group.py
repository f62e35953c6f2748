"""One replicated group: a state, the replica of the log that it applies, their leader, their disk.

A node serves one group today. A group knows nothing of the ports for callers, of the process or of
other groups, so several can run beside each other, each in a data directory of its own.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tq_cluster.clock import Clock
from tq_cluster.config import NodeConfig
from tq_cluster.core.cluster.scrubbing import scrub_row
from tq_cluster.core.reads import queries
from tq_cluster.errors import DiskError, StateDiffersError
from tq_cluster.leader import task_log
from tq_cluster.leader.counting import Counting
from tq_cluster.leader.hooks import LeaderHooks
from tq_cluster.leader.leader import Formation, Leader
from tq_cluster.node.disk_watch import DiskWatch
from tq_cluster.node.instrumentation import TimedState, TimedSyncer
from tq_cluster.raft.formation import Membership
from tq_cluster.raft.log_api import LogStatus, Role
from tq_cluster.raft.members import contradiction
from tq_cluster.raft.network import Network
from tq_cluster.raft.replica import Replica
from tq_cluster.raft.secret import ClusterSecret
from tq_cluster.raft.shrinking import Shrinking
from tq_cluster.raft.startup import NodeData, open_data
from tq_cluster.raft.state_files import StateFiles
from tq_cluster.raft.syncer import ThreadSyncer
from tq_cluster.reading import Reading
from tq_cluster.service.backups import MovedError, NoRoomError
from tq_cluster.service.status import ClusterFacts
from tq_cluster.storage import snapshot
from tq_cluster.storage.backup import Maker, OutgoingBackup, make_backup
from tq_cluster.storage.crash import note_failure
from tq_cluster.storage.headroom import Headroom
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.telemetry.metrics import Metrics

DISK_S = 5.0
"""How often the gauges of the disk are updated."""

Fatal = Callable[[BaseException], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What a group uses of its node; groups of one node share it."""

    clock: Clock
    draw: random.Random
    metrics: Metrics
    network: Network
    secret: ClusterSecret | None
    version: str
    """Of tq, for backups."""
    fatal: Fatal
    """Called with an error after which the group must not go on; ends the process."""


class Group:
    """Runs on the event loop it was made in; its node calls ``tick`` some ten times a second."""

    def __init__(self, config: NodeConfig, node: Dependencies, *, record_crashes: bool) -> None:
        """Open the data directory; StartError if it cannot be served.

        ``record_crashes``: the process serves only this group (see ``open_data``).
        """
        self._config = config
        self._node = node
        self._metrics = node.metrics
        self._loop = asyncio.get_running_loop()
        started_at_ms = node.clock.wall_ms()
        # Before anything is opened: on a full disk that takes the room that the ballast gives up.
        headroom = Headroom(
            config.data_dir,
            reserve_bytes=config.limits.disk_reserve_mb << 20,
            ballast_bytes=config.limits.disk_ballast_mb << 20,
        )
        with suppress(OSError):  # `open_data` reports what is wrong with the directory
            headroom.look()
        self._syncer = ThreadSyncer(self._loop)
        self._journal_syncer = TimedSyncer(self._syncer, self._fsynced)
        self._state_syncer = ThreadSyncer(self._loop)
        self._committing = False
        self._commit_waiters: list[asyncio.Future[None]] = []
        """Callers that wait for a commit which begins from now on."""
        state_written_ms = _last_written_ms(config.data_dir, started_at_ms)
        try:
            self.data: NodeData = open_data(
                config.data_dir,
                node_id=config.node_id,
                draw=node.draw,
                syncer=self._journal_syncer,
                on_fatal=self.end,
                members=config.members,
                single=config.single,
                relief=headroom.give_up,
                record_crashes=record_crashes,
            )
        except BaseException:
            self._syncer.close()
            self._state_syncer.close()
            raise
        # The age of a state that begins again is not known.
        self.state_written_ms = 0 if self.data.set_aside else state_written_ms
        """When the state was last written before this start, by the wall clock; 0: not known."""
        self.store = self.data.store
        self._state_files = StateFiles(
            self.store,
            self.data.states,
            self._loop,
            lambda membership: contradiction(self.data.directory, membership),
        )
        self.replica = Replica(
            identity=self.data.directory,
            members={name: member.raft for name, member in config.members.items()},
            journal=self.data.journal,
            machine=TimedState(self.store, self._metrics.applied),
            states=self._state_files,
            network=node.network,
            clock=node.clock,
            draw=node.draw,
            fatal=self.end,
            membership=self.membership,
            cluster_version=lambda: queries.cluster_version(self.store.view()),
            disk_low=lambda: headroom.low,
            secret=node.secret,
        )
        self.disk = DiskWatch(
            headroom,
            members=len(config.members),
            hand_over=self.replica.transfer_leadership,
            fatal=self.end,
        )
        self._shrinking = Shrinking(
            store=self.store,
            states=self.data.states,
            journal=self.data.journal,
            loop=self._loop,
        )
        self.reading = Reading()
        self.leader = Leader(
            node_id=config.node_id,
            log=self.replica,
            state=self.store,
            reading=self.reading,
            clock=node.clock,
            draw=node.draw,
            members=len(config.members),
            formation=self._formation,
            fatal=self.end,
            hooks=self._hooks(),
            disk_pressure=lambda: self.disk.pressure,
        )
        self.store.on_hashed = self.leader.hashed
        self._disk_at_s = 0.0

    def _hooks(self) -> LeaderHooks:
        metrics = self._metrics
        counting = Counting(view=self.store.view, tasks=metrics.tasks, queues=metrics.queues)
        return LeaderHooks(
            housekept=metrics.housekept,
            undecidable=metrics.undecidable,
            differed=metrics.states_differ,
            decide=metrics.decided,
            commit=metrics.committed,
            confirm=metrics.confirmed,
            begun=metrics.leads_now,
            counted=counting.add,
            sampled=counting.show,
            event=task_log.writer(wanted=self._config.log.tasks),
        )

    def end(self, error: BaseException) -> None:
        """End the process. A state that was found damaged is not opened again."""
        with suppress(OSError):
            if isinstance(error, (CorruptRowError, StateDiffersError)):
                self.store.quarantine(str(error))
            elif isinstance(error, DiskError):
                # LMDB reports damage by many errors, and a disk that failed may have caused some.
                note_failure(self._config.data_dir, error)
        self._node.fatal(error)

    async def hand_over(self) -> None:
        """Hand leadership to another member, if this node leads and there is one."""
        if self.replica.status().role is Role.LEADER and len(self._config.members) > 1:
            await self.disk.hand_over("stopping")

    async def close(self) -> None:
        """Stop, make everything durable, and release the data directory."""
        self.disk.stop()
        self.leader.stop()
        await self.replica.stop()
        self._shrinking.stop()
        self._state_syncer.close()
        self.store.commit()
        self.store.close()
        self.data.journal.close()
        # The next holder of the lock may rely on it that no thread of this node works there.
        await self._state_files.stopped()
        await self.disk.stopped()
        self.data.directory.release()
        self._syncer.close()

    def tick(self) -> LogStatus | None:
        """Commit the state if that is due, and check the disk; return where the log stands.

        None: the group has ended.
        """
        try:
            status = self.replica.status()
            self.disk.tick(status, self._journal_syncer.running_s)
            started_s = self._loop.time()
            if self.store.commit_due(started_s):
                self._commit(started_s)
            self._shrinking.tick(may_begin=status.role in {Role.LEADER, Role.FOLLOWER})
            if self._config.metrics_listen is not None:
                self._look_round()
        except OSError as error:
            self.end(DiskError(f"{self._config.data_dir} cannot be used: {error}"))
            return None
        except Exception as error:  # noqa: BLE001  # handed on: a state that fails ends the process
            self.end(error)
            return None
        return status

    def show(self, status: LogStatus) -> None:
        """Update the gauges."""
        self._metrics.stands(
            leads=status.role is Role.LEADER,
            term=status.term,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
        )
        self._metrics.scrub_finished(scrub_row(self.store.view()).last_finished_at_ms)
        self._metrics.log_time(self.leader.look_at_clocks())
        headroom = self.disk.headroom
        self._metrics.has_room(free_bytes=headroom.free_bytes, low=headroom.low)

    def _commit(self, began_s: float) -> None:
        if self._committing:
            return  # the disk is slow; applying goes on
        self._committing = True
        waiting, self._commit_waiters = self._commit_waiters, []
        self.store.begin_commit()

        def ended(error: BaseException | None) -> None:
            self._committing = False
            if error is not None:
                self.end(DiskError(f"the state in {self.store.path} cannot be synced: {error}"))
                return
            self.store.end_commit()
            spent_s = self._loop.time() - began_s
            self._metrics.state_committed(spent_s)
            self.disk.took("state commit", spent_s)
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
            if self._commit_waiters:
                self._commit(self._loop.time())

        self._state_syncer.run(self.store.sync_commit, ended)

    async def committed(self) -> None:
        """Return once everything applied by now is in a commit that is on the disk."""
        committed: asyncio.Future[None] = self._loop.create_future()
        self._commit_waiters.append(committed)
        self._commit(self._loop.time())
        await committed

    def _look_round(self) -> None:
        """Update costly gauges, which are visible only if metrics are served."""
        self.leader.sample()
        if self._loop.time() >= self._disk_at_s:
            self._disk_at_s = self._loop.time() + DISK_S
            self._metrics.disk(
                state_bytes=self.state_bytes(),
                size_bytes=shutil.disk_usage(self._config.data_dir).total,
            )

    def _fsynced(self, seconds: float) -> None:
        self._metrics.fsynced(seconds)
        self.disk.took("journal fsync", seconds)

    def _formation(self) -> Formation | None:
        membership = self.replica.formation()
        return None if membership is None else Formation(membership[0], membership[1])

    def membership(self) -> Membership | None:
        """Return the cluster and its members as the state has them; None before it is formed."""
        return queries.membership(self.store.view())

    def facts(self) -> ClusterFacts:
        """Return the cluster's id, empty if it is not formed yet, and its version."""
        view = self.store.view()
        membership = queries.membership(view)
        cluster_id = membership[0] if membership is not None else self.data.directory.cluster_id
        return ClusterFacts(cluster_id or "", queries.cluster_version(view))

    def state_bytes(self) -> int:
        """Return the disk space that the state takes; LMDB's file has holes."""
        allocated = 0
        for path in self.store.path.iterdir():
            with suppress(FileNotFoundError):
                allocated += path.stat().st_blocks * 512
        return allocated

    def copy_state(self) -> Callable[[], OutgoingBackup]:
        """Return what copies the state to a backup; call it in a thread."""
        maker = Maker(
            node_id=self._config.node_id,
            version=self._node.version,
            made_at_ms=self._node.clock.wall_ms(),
            backup_id=uuid.uuid4().hex,
        )

        def copy() -> OutgoingBackup:
            try:
                return make_backup(self.store, self.data.states.snapshots, maker)
            except snapshot.NoRoomError as error:
                raise NoRoomError(str(error)) from error
            except snapshot.StateMovedError as error:
                raise MovedError(str(error)) from error

        return copy


def _last_written_ms(data_dir: Path, now_ms: int) -> int:
    """Return when a state below ``data_dir`` was last written; now if there is none yet."""
    written = [path.stat().st_mtime_ns // 1_000_000 for path in data_dir.glob("state-*/data.mdb")]
    return max(written, default=now_ms)
