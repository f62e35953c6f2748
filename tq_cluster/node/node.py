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
from collections.abc import Callable
from importlib import metadata
from typing import Any, NoReturn

from tq_cluster.beats import next_beat_s
from tq_cluster.clock import SystemClock
from tq_cluster.config import NodeConfig
from tq_cluster.errors import DiskError, FatalError, StartError
from tq_cluster.node.group import Dependencies, Fatal, Group
from tq_cluster.node.instrumentation import ListenElsewhere
from tq_cluster.node.reload import ReadAgain, Reloading
from tq_cluster.raft.log_api import LogStatus
from tq_cluster.raft.secret import ClusterSecret
from tq_cluster.service import service
from tq_cluster.service.server import calls_ended
from tq_cluster.service.status import Vitals
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.telemetry import logs, tracing
from tq_cluster.telemetry.loop_hold import SPAN_S, LoopHold
from tq_cluster.telemetry.metrics import Metrics
from tq_common import addresses
from tq_common.event_loop import EventLoop
from tq_process import descriptors, memory, signals
from tq_process.garbage import OldGarbage

_logger = logging.getLogger(__name__)

EXIT_FATAL = 70
GAUGES_TICKS = 5
PEER_HOSTS_MAX = 16
"""Members have one each, and another once they came back at another address."""


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
        self._peer_hosts: dict[str, None] = {}
        """Hosts from which peers were admitted, the latest last."""
        self.group = Group(
            config,
            Dependencies(
                clock=self._clock,
                draw=draw,
                metrics=self.metrics,
                network=ListenElsewhere(
                    config.listen_raft, self._admitted_from, self.metrics.refuses("raft")
                ),
                secret=self._secret,
                version=self._version,
                fatal=fatal,
            ),
            record_crashes=record_crashes,
        )
        connections_max = min(config.limits.connections_max, descriptors.for_callers())
        self.metrics.connections_max(connections_max)
        self._callers = descriptors.CallersWatch(connections_max)
        self.service = service.Service(
            service.Dependencies(
                node_id=config.node_id,
                apis={name: member.api for name, member in config.members.items()},
                log=self.group.replica,
                leading=self.group.leader,
                committed=self.group.store,
                reading=self.group.reading,
                clock=self._clock,
                vitals=self._vitals,
                facts=self.group.facts,
                state_committed=self.group.committed,
                copy_state=self.group.copy_state,
                membership=self.group.membership,
                state_written_ms=self.group.state_written_ms,
                calls_max=config.limits.calls_max,
                connections_max=connections_max,
                forward_address=self._forward_address,
                jitter=draw,
                fatal=self.group.end,
                tracing=self._tracing,
                secret=self._secret,
                held_bytes=_held_bytes,
            )
        )
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
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

    async def start(self) -> None:
        """Bind the ports, join the cluster, answer calls; StartError if a port is not available."""
        try:
            self.service.bind(self._config.listen_api)
            port = self.service.bind_for_nodes(self._config.listen_forward)
            self.service.let_nodes_in([])
            self.group.replica.announce_forward_port(port)
            await self._serve_metrics()
            await self.group.replica.start()
        except BaseException:
            await self._close()
            raise
        _warn_of_openness(self._secret)
        await self.service.start()
        self._hold.start()
        self._callers.start()
        self._await_tick()

    async def stop(self) -> None:
        """Hand leadership over, let calls end, make everything durable, close."""
        await self.service.show_stopping()
        # Before the port closes: what arrives meanwhile is forwarded to the next leader.
        await self.group.hand_over()
        await self.service.stop()
        await self._close()

    async def _close(self) -> None:
        self._hold.stop()
        self._callers.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._stop_metrics()
        await self.group.close()
        if self._tracing is not None:
            await self._tracing.close()

    def _await_tick(self) -> None:
        self._timer = self._loop.call_at(next_beat_s(self._loop.time()), self._tick)

    def _tick(self) -> None:
        self._await_tick()
        status = self.group.tick()
        self._ticks += 1
        if status is not None and self._ticks % GAUGES_TICKS == 0:
            self._show(status)

    def _show(self, status: LogStatus) -> None:
        """Update the gauges."""
        self.group.show(status)
        self.metrics.holds(
            calls=self.service.calls,
            conversations=self.service.conversations.open,
            journal_bytes=status.journal_bytes,
        )
        held = self.service.admission
        self.metrics.holds_for_callers(
            request_bytes=held.request_bytes,
            reply_bytes=held.reply_bytes,
            reading=held.reading,
            refused=held.refused() | self.service.conversations.refused(),
        )

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
        port = self.group.replica.forward_port(node_id)
        return self._config.forward_address(node_id, port) if port else None

    def _vitals(self, hold_span_s: float | None) -> Vitals:
        if hold_span_s is not None:
            self._hold.watch()
        hold = self._hold.longest(SPAN_S if hold_span_s is None else hold_span_s)
        p50_s, p99_s = self.metrics.fsyncs.percentiles(0.5, 0.99)
        return Vitals(
            version=self._version,
            started_at_ms=self._started_at_ms,
            state_bytes=self.group.state_bytes(),
            disk_free_bytes=shutil.disk_usage(self._config.data_dir).free,
            fsync_p50_s=p50_s,
            fsync_p99_s=p99_s,
            loop_hold_max_s=hold.wall_s,
            loop_hold_cpu_max_s=hold.cpu_s,
            message="; ".join(
                filter(None, (self.group.disk.message, self.group.leader.clock_message))
            ),
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


def _held_bytes() -> int:
    """What this process holds in memory; 0 if the system does not tell."""
    try:
        return memory.held_bytes()
    except (OSError, LookupError):
        return 0


def serve(config: NodeConfig, read_again: ReadAgain) -> None:
    """Run one node until SIGTERM or Ctrl-C; StartError if it cannot start.

    ``read_again`` reads the configuration once more, at SIGHUP.
    """
    logs.set_up(node_id=config.node_id, style=config.log.format, level=config.log.level)
    descriptors.raise_limit()
    memory.return_memory()
    try:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(_serve(config, read_again))
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
