"""A node's parts, put together: only here the real clock, ports, disk and randomness are chosen."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from tq_cluster.clock import SystemClock
from tq_cluster.config import NodeConfig
from tq_cluster.core.cluster.scrubbing import scrub_row
from tq_cluster.core.reads import queries
from tq_cluster.errors import DiskError, FatalError, StartError, StateDiffersError
from tq_cluster.leader import task_log
from tq_cluster.leader.counting import Counting
from tq_cluster.leader.hooks import LeaderHooks
from tq_cluster.leader.leader import Formation, Leader
from tq_cluster.node.disk_watch import DiskWatch
from tq_cluster.node.instrumentation import ListenElsewhere, TimedState, TimedSyncer
from tq_cluster.node.reload import ReadAgain, Reloading
from tq_cluster.raft.log_api import Role
from tq_cluster.raft.members import contradiction
from tq_cluster.raft.replica import Replica
from tq_cluster.raft.secret import ClusterSecret
from tq_cluster.raft.shrinking import Shrinking
from tq_cluster.raft.startup import NodeData, open_data
from tq_cluster.raft.state_files import StateFiles
from tq_cluster.raft.syncer import ThreadSyncer
from tq_cluster.reading import Reading
from tq_cluster.service.backups import MovedError, NoRoomError
from tq_cluster.service.server import calls_ended
from tq_cluster.service.service import Parts, Service
from tq_cluster.service.status import ClusterFacts, Vitals
from tq_cluster.storage import snapshot
from tq_cluster.storage.backup import Maker, OutgoingBackup, make_backup
from tq_cluster.storage.crash import note_failure
from tq_cluster.storage.headroom import Headroom
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.telemetry import logs, tracing
from tq_cluster.telemetry.loop_hold import SPAN_S, LoopHold
from tq_cluster.telemetry.metrics import Metrics
from tq_process import addresses, descriptors, memory, signals
from tq_process.garbage import OldGarbage

_logger = logging.getLogger(__name__)

EXIT_FATAL = 70
TICK_S = 0.05
PEER_HOSTS_MAX = 16
"""Members have one each, and another once they came back at another address."""
DISK_S = 5.0
"""How often the gauges of the disk are updated."""

Fatal = Callable[[BaseException], None]


def end_process(error: BaseException) -> NoReturn:
    """Log the reason and end at once: going on, even to clean up, could risk the log."""
    # An error that the node explains needs no traceback, unless another error led to it.
    worded = isinstance(error, FatalError) and (
        isinstance(error, (DiskError, CorruptRowError)) or error.__cause__ is None
    )
    _logger.critical(
        "the node stops", extra={"reason": str(error)}, exc_info=None if worded else error
    )
    logs.flush()
    os._exit(EXIT_FATAL)


class Node:
    """One broker. It runs entirely on the event loop it was started in."""

    def __init__(
        self, config: NodeConfig, *, fatal: Fatal = end_process, record_crashes: bool = False
    ) -> None:
        """Open the data directory; StartError if it cannot be served.

        ``record_crashes``: the process serves only this node (see ``open_data``).
        """
        self._config = config
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._clock = SystemClock()
        self._started_at_ms = self._clock.wall_ms()
        draw = random.Random()
        self._tracing = tracing.set_up(
            otlp_endpoint=config.tracing.otlp_endpoint,
            ratio=config.tracing.ratio,
            node_id=config.node_id,
            environment=os.environ,
        )
        self._secret = _secret_of(config)
        self._version = metadata.version("tq")  # read from a file: once
        self.metrics = Metrics(self._version)
        self._hold = LoopHold(self.metrics.loop_held)
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
        self._peer_hosts: dict[str, None] = {}
        """Hosts from which peers were admitted, the latest last."""
        self._commit_waiters: list[asyncio.Future[None]] = []
        """Callers that wait for a commit which begins from now on."""
        state_written_ms = _last_written_ms(config.data_dir, self._started_at_ms)
        try:
            self._data: NodeData = open_data(
                config.data_dir,
                node_id=config.node_id,
                draw=draw,
                syncer=self._journal_syncer,
                on_fatal=self._end,
                members=config.members,
                single=config.single,
                relief=headroom.give_up,
                record_crashes=record_crashes,
            )
        except BaseException:
            self._syncer.close()
            self._state_syncer.close()
            raise
        self._store = self._data.store
        self._state_files = StateFiles(
            self._store,
            self._data.states,
            self._loop,
            lambda membership: contradiction(self._data.directory, membership),
        )
        raft_addresses = {name: member.raft for name, member in config.members.items()}
        self.replica = Replica(
            identity=self._data.directory,
            members=raft_addresses,
            journal=self._data.journal,
            machine=TimedState(self._store, self.metrics.applied),
            states=self._state_files,
            network=ListenElsewhere(
                config.listen_raft, self._admitted_from, self.metrics.refuses("raft")
            ),
            clock=self._clock,
            draw=draw,
            fatal=self._end,
            membership=lambda: queries.membership(self._store.view()),
            cluster_version=lambda: queries.cluster_version(self._store.view()),
            disk_low=lambda: headroom.low,
            secret=self._secret,
        )
        self.disk = DiskWatch(
            headroom,
            members=len(config.members),
            status=self.replica.status,
            hand_over=self.replica.transfer_leadership,
            fatal=self._end,
        )
        counting = Counting(
            view=self._store.view, tasks=self.metrics.tasks, queues=self.metrics.queues
        )
        self._shrinking = Shrinking(
            store=self._store,
            states=self._data.states,
            journal=self._data.journal,
            loop=self._loop,
        )
        reading = Reading()
        self.leader = Leader(
            node_id=config.node_id,
            log=self.replica,
            state=self._store,
            reading=reading,
            clock=self._clock,
            draw=draw,
            members=len(config.members),
            formation=self._formation,
            fatal=self._end,
            hooks=LeaderHooks(
                housekept=self.metrics.housekept,
                undecidable=self.metrics.undecidable,
                differed=self.metrics.states_differ,
                decide=self.metrics.decided,
                commit=self.metrics.committed,
                confirm=self.metrics.confirmed,
                begun=self.metrics.leads_now,
                counted=counting.add,
                sampled=counting.show,
                event=task_log.writer(wanted=config.log.tasks),
            ),
            disk_pressure=lambda: self.disk.pressure,
        )
        self._store.on_hashed = self.leader.hashed
        connections_max = min(config.limits.connections_max, descriptors.for_callers())
        self.metrics.connections_max(connections_max)
        self._callers = descriptors.CallersWatch(connections_max)
        self.service = Service(
            Parts(
                node_id=config.node_id,
                apis={name: member.api for name, member in config.members.items()},
                log=self.replica,
                leading=self.leader,
                committed=self._store,
                reading=reading,
                clock=self._clock,
                vitals=self._vitals,
                facts=self._facts,
                state_committed=self._committed,
                copy_state=self._copy_state,
                membership=lambda: queries.membership(self._store.view()),
                # The age of a state that begins again is not known.
                state_written_ms=0 if self._data.set_aside else state_written_ms,
                calls_max=config.limits.calls_max,
                connections_max=connections_max,
                forward_address=self._forward_address,
                jitter=draw,
                fatal=self._end,
                tracing=self._tracing,
                secret=self._secret,
            )
        )
        self._timer: asyncio.TimerHandle | None = None
        self._disk_at_s = 0.0
        self._stop_metrics: Callable[[], None] = lambda: None

    def reload_secret(self) -> None:
        """Read the cluster's secret again; connections that exist go on.

        A file that is not valid changes nothing: what was read before counts.
        """
        if self._secret is None:
            return
        try:
            self._secret.reload()
        except StartError as error:
            _logger.warning("the cluster's secret not reloaded", extra={"reason": str(error)})

    def _end(self, error: BaseException) -> None:
        """End the process. A state that was found damaged is not opened again."""
        with suppress(OSError):
            if isinstance(error, (CorruptRowError, StateDiffersError)):
                self._store.quarantine(str(error))
            elif isinstance(error, DiskError):
                # LMDB reports damage by many errors, and a disk that failed may have caused some.
                note_failure(self._config.data_dir, error)
        self._fatal(error)

    async def start(self) -> None:
        """Bind the ports, join the cluster, answer calls; StartError if a port is not available."""
        try:
            self.service.bind(self._config.listen_api)
            port = self.service.bind_for_nodes(self._config.listen_forward)
            self.service.let_nodes_in([])
            self.replica.announce_forward_port(port)
            await self._serve_metrics()
            await self.replica.start()
        except BaseException:
            await self._close()
            raise
        _warn_of_openness(self._secret)
        await self.service.start()
        self._hold.start()
        self._callers.start()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    async def stop(self) -> None:
        """Hand leadership over, let calls end, make everything durable, close."""
        await self.service.show_stopping()
        if self.replica.status().role is Role.LEADER and len(self._config.members) > 1:
            # Before the port closes: what arrives meanwhile is forwarded to the next leader.
            await self.disk.hand_over("stopping")
        await self.service.stop()
        await self._close()

    async def _close(self) -> None:
        self._hold.stop()
        self._callers.stop()
        if self._timer is not None:
            self._timer.cancel()
        self.disk.stop()
        self._stop_metrics()
        self.leader.stop()
        await self.replica.stop()
        self._shrinking.stop()
        self._state_syncer.close()
        self._store.commit()
        self._store.close()
        self._data.journal.close()
        # The next holder of the lock may rely on it that no thread of this node works there.
        await self._state_files.stopped()
        await self.disk.stopped()
        self._data.directory.release()
        self._syncer.close()
        if self._tracing is not None:
            await self._tracing.close()

    def _tick(self) -> None:
        """Commit the state when that is due, and update the gauges."""
        self._timer = self._loop.call_later(TICK_S, self._tick)
        try:
            self.disk.tick(self._journal_syncer.running_s)
            started_s = self._loop.time()
            if self._store.commit_due(started_s):
                self._commit(started_s)
            role = self.replica.status().role
            self._shrinking.tick(may_begin=role in {Role.LEADER, Role.FOLLOWER})
            if self._config.metrics_listen is not None:
                self._look_round()
        except OSError as error:
            self._end(DiskError(f"{self._config.data_dir} cannot be used: {error}"))
            return
        except Exception as error:  # noqa: BLE001  # handed on: a state that fails ends the process
            self._end(error)
            return
        status = self.replica.status()
        self.metrics.stands(
            leads=status.role is Role.LEADER,
            term=status.term,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
        )
        self.metrics.scrub_finished(scrub_row(self._store.view()).last_finished_at_ms)
        self.metrics.log_time(self.leader.look_at_clocks())
        self.metrics.has_room(free_bytes=self.disk.headroom.free_bytes, low=self.disk.headroom.low)
        self.metrics.holds(calls=self.service.calls, journal_bytes=status.journal_bytes)
        held = self.service.admission
        self.metrics.holds_for_callers(
            request_bytes=held.request_bytes,
            reply_bytes=held.reply_bytes,
            reading=held.reading,
            refused=held.refused(),
        )

    def _commit(self, began_s: float) -> None:
        if self._committing:
            return  # the disk is slow; applying goes on
        self._committing = True
        waiting, self._commit_waiters = self._commit_waiters, []
        self._store.begin_commit()

        def ended(error: BaseException | None) -> None:
            self._committing = False
            if error is not None:
                self._end(DiskError(f"the state in {self._store.path} cannot be synced: {error}"))
                return
            self._store.end_commit()
            spent_s = self._loop.time() - began_s
            self.metrics.state_committed(spent_s)
            self.disk.took("state commit", spent_s)
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
            if self._commit_waiters:
                self._commit(self._loop.time())

        self._state_syncer.run(self._store.sync_commit, ended)

    async def _committed(self) -> None:
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
            self.metrics.disk(
                state_bytes=_allocated_bytes(self._store.path),
                size_bytes=shutil.disk_usage(self._config.data_dir).total,
            )

    def _fsynced(self, seconds: float) -> None:
        self.metrics.fsynced(seconds)
        self.disk.took("journal fsync", seconds)

    async def _serve_metrics(self) -> None:
        if self._config.metrics_listen is None:
            return
        host, port = addresses.split(self._config.metrics_listen)
        try:
            self._stop_metrics = await self.metrics.serve(host, port)
        except OSError as error:
            raise StartError(
                f"metrics cannot be served at {self._config.metrics_listen}: {error.strerror}"
            ) from error

    def _admitted_from(self, host: str) -> None:
        """Note the host of an admitted peer: forwarded calls may come only from such hosts."""
        known = host in self._peer_hosts
        self._peer_hosts.pop(host, None)
        self._peer_hosts[host] = None
        if len(self._peer_hosts) > PEER_HOSTS_MAX:
            del self._peer_hosts[next(iter(self._peer_hosts))]
        if not known:
            self.service.let_nodes_in(list(self._peer_hosts))

    def _forward_address(self, node_id: str) -> str | None:
        port = self.replica.forward_port(node_id)
        return self._config.forward_address(node_id, port) if port else None

    def _formation(self) -> Formation | None:
        membership = self.replica.formation()
        return None if membership is None else Formation(membership[0], membership[1])

    def _facts(self) -> ClusterFacts:
        view = self._store.view()
        membership = queries.membership(view)
        cluster_id = membership[0] if membership is not None else self._data.directory.cluster_id
        return ClusterFacts(cluster_id or "", queries.cluster_version(view))

    def _copy_state(self) -> Callable[[], OutgoingBackup]:
        maker = Maker(
            node_id=self._config.node_id,
            version=self._version,
            made_at_ms=self._clock.wall_ms(),
            backup_id=uuid.uuid4().hex,
        )

        def copy() -> OutgoingBackup:
            try:
                return make_backup(self._store, self._data.states.snapshots, maker)
            except snapshot.NoRoomError as error:
                raise NoRoomError(str(error)) from error
            except snapshot.StateMovedError as error:
                raise MovedError(str(error)) from error

        return copy

    def _vitals(self, hold_span_s: float | None) -> Vitals:
        if hold_span_s is not None:
            self._hold.watch()
        hold = self._hold.longest(SPAN_S if hold_span_s is None else hold_span_s)
        p50_s, p99_s = self.metrics.fsyncs.percentiles(0.5, 0.99)
        return Vitals(
            version=self._version,
            started_at_ms=self._started_at_ms,
            state_bytes=_allocated_bytes(self._store.path),
            disk_free_bytes=shutil.disk_usage(self._config.data_dir).free,
            fsync_p50_s=p50_s,
            fsync_p99_s=p99_s,
            loop_hold_max_s=hold.wall_s,
            loop_hold_cpu_max_s=hold.cpu_s,
            message="; ".join(filter(None, (self.disk.message, self.leader.clock_message))),
            warnings=tuple(filter(None, [_openness(self._secret)])),
        )


def _secret_of(config: NodeConfig) -> ClusterSecret | None:
    if config.cluster_secret_file is None:
        return None
    return ClusterSecret(config.cluster_secret_file, required=not config.cluster_secret_optional)


def _warn_of_openness(secret: ClusterSecret | None) -> None:
    """Warn once at start about ports that are open to anyone."""
    if secret is not None and secret.readable_by_others:
        extra = {"path": str(secret.path)}
        _logger.warning("the cluster's secret can be read by any user", extra=extra)
    if openness := _openness(secret):
        _logger.warning("the raft port is open", extra={"reason": openness})


def _openness(secret: ClusterSecret | None) -> str:
    """Describe what is open to anyone; empty if nothing is."""
    if secret is None:
        return "no cluster_secret_file: brokers do not prove to each other who they are"
    if not secret.required:
        return "cluster_secret_optional: brokers without the secret are taken, too"
    return ""


def serve(config: NodeConfig, read_again: ReadAgain) -> None:
    """Run one node until SIGTERM or Ctrl-C; StartError if it cannot start.

    ``read_again`` reads the configuration once more, at SIGHUP.
    """
    logs.set_up(node_id=config.node_id, style=config.log.format, level=config.log.level)
    descriptors.raise_limit()
    memory.return_memory()
    try:
        asyncio.run(_serve(config, read_again))
    except FatalError as error:  # at start or stop; while running it ended the process
        end_process(error)


async def _serve(config: NodeConfig, read_again: ReadAgain) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    reloading = Reloading(config, read_again)
    loop.add_signal_handler(signal.SIGHUP, reloading.reload)
    signals.log_passed_over(loop)
    signals.tell_stacks_on_quit(loop)
    OldGarbage(loop).begin()
    memory.FreedMemory(loop).begin()
    node = Node(config, record_crashes=True)
    reloading.also.append(node.reload_secret)
    await node.start()
    sys.stdout.write(
        f"tq-cluster: node {config.node_id} ready, API at {config.listen_api},"
        f" raft at {config.listen_raft}, data in {config.data_dir}\n"
    )
    sys.stdout.flush()
    await told.wait()
    _logger.info("stopping")
    await node.stop()
    await calls_ended()
    _logger.info("stopped")


def _unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process: a callback of ours that raised leaves the node in an unexpected state.

    Errors of gRPC's own callbacks are only logged.
    """
    error = context.get("exception")
    if isinstance(error, Exception) and "handle" in context:
        modules = [
            frame.f_globals.get("__name__", "")
            for frame, _ in traceback.walk_tb(error.__traceback__)
        ]
        if any(name.startswith("tq_cluster.") for name in modules):
            end_process(error)
    loop.default_exception_handler(context)


def _last_written_ms(data_dir: Path, now_ms: int) -> int:
    """Return when a state below ``data_dir`` was last written; now if there is none yet."""
    written = [path.stat().st_mtime_ns // 1_000_000 for path in data_dir.glob("state-*/data.mdb")]
    return max(written, default=now_ms)


def _allocated_bytes(folder: Path) -> int:
    """Return the disk space of the files in ``folder``; LMDB's file has holes."""
    allocated = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            allocated += path.stat().st_blocks * 512
    return allocated
