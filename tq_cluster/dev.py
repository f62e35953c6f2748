"""Runs brokers on loopback in one command: for trials, not for keeping data safe.

Each broker is a separate process, so killing one is a real crash. It is started by exec and never
by fork, with its file, data directory and output lines named after it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from tq_cluster.errors import StartError
from tq_cluster.raft import secret
from tq_cluster.storage.lock import DirectoryLock
from tq_process import signals

HOST = "127.0.0.1"
RAFT_PORT_OFFSET = 100
RESTART_S = 1.0
STOP_S = 15.0
LINE_BYTES_MAX = 1 << 20
SECRET_FILE = "cluster-secret"  # noqa: S105 - a file's name


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker's file."""

    node_id: str
    api: str
    config: Path

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        return [sys.executable, "-m", "tq_cluster", "serve", "--config", str(self.config)]


def prepare(data_dir: Path, nodes: int, base_port: int) -> list[Broker]:
    """Write a file for each broker; a directory of other nodes, or one in use, is not changed."""
    members = {
        f"n{number}": {
            "raft": f"{HOST}:{base_port + RAFT_PORT_OFFSET + number - 1}",
            "api": f"{HOST}:{base_port + number - 1}",
        }
        for number in range(1, nodes + 1)
    }
    _check_same_members(data_dir, nodes)
    _check_nobody_runs(data_dir, members)
    data_dir.mkdir(parents=True, exist_ok=True)
    secret.draw(data_dir / SECRET_FILE)
    brokers: list[Broker] = []
    for node_id, member in members.items():
        path = data_dir / f"{node_id}.yaml"
        config: dict[str, object] = {
            "node_id": node_id,
            "data_dir": str(data_dir / node_id),
            "cluster_secret_file": str(data_dir / SECRET_FILE),
            "members": members,
        }
        if nodes == 1:
            config["single"] = True
        path.write_text("# Written by tq-cluster dev.\n" + yaml.safe_dump(config, sort_keys=False))
        brokers.append(Broker(node_id, member["api"], path))
    return brokers


class Supervisor:
    """Runs the brokers until it is stopped."""

    def __init__(self, brokers: list[Broker], *, restart: bool, out: TextIO) -> None:
        self._brokers = brokers
        self._restart = restart
        self._out = out
        self._stopping = asyncio.Event()
        self._width = max(len(broker.node_id) for broker in brokers)

    async def run(self) -> int:
        """Start all, stop all; return the process's exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            loop.add_signal_handler(number, self._stopping.set)
        # The terminal is closed: the brokers, which have sessions of their own, would run on.
        signals.on_hangup(loop, self._stopping.set)
        signals.log_passed_over(loop)
        self._introduce()
        keepers = [asyncio.create_task(self._keep(broker)) for broker in self._brokers]
        all_ended = asyncio.gather(*keepers)
        stop = asyncio.create_task(self._stopping.wait())
        first: list[asyncio.Future[Any]] = [stop, all_ended]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping.is_set():
            stop.cancel()
            self._say("dev", "no broker runs any more")
            return 1
        self._say("dev", "stopping all brokers")
        codes = await all_ended
        return 1 if any(codes) else 0

    async def _keep(self, broker: Broker) -> int:
        """Run one broker, again and again if so configured; return its last exit code."""
        while True:
            code = await self._run_once(broker)
            if self._stopping.is_set():
                return code
            self._say(broker.node_id, _obituary(code))
            if not self._restart:
                command = f"tq-cluster serve --config {broker.config}"
                self._say(broker.node_id, f"start it again with: {command}")
                return code
            try:
                async with asyncio.timeout(RESTART_S):
                    await self._stopping.wait()
            except TimeoutError:
                self._say(broker.node_id, "starting again")
            else:
                return code

    async def _run_once(self, broker: Broker) -> int:
        process = await asyncio.create_subprocess_exec(
            *broker.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_BYTES_MAX,
            # A variable meant for one node must not affect all of them.
            env={key: value for key, value in os.environ.items() if not key.startswith("TQ_")},
            # Ctrl-C goes only to this process, which passes it on.
            start_new_session=True,
        )
        self._say(broker.node_id, f"started: pid {process.pid}, API at {broker.api}")
        stopper = asyncio.create_task(self._stop_when_told(process))
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                self._say(broker.node_id, line.decode(errors="replace").rstrip("\n"))
            return await process.wait()
        finally:
            stopper.cancel()
            if process.returncode is None:
                process.kill()

    async def _stop_when_told(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        process.terminate()
        await asyncio.sleep(STOP_S)
        process.kill()

    def _introduce(self) -> None:
        addresses = ",".join(broker.api for broker in self._brokers)
        for line in (
            f"{len(self._brokers)} brokers; their APIs: {addresses}",
            f"files and data: {self._brokers[0].config.parent}",
            "in another terminal:",
            f"  export TQ_ADDRESS={addresses}",
            "  tq-admin cluster-status",
            "  tq-admin submit --help",
            "Ctrl-C stops all.",
        ):
            self._say("dev", line)

    def _say(self, who: str, line: str) -> None:
        self._out.write(f"{who:<{max(self._width, 3)}} | {line}\n")
        self._out.flush()


def _check_same_members(data_dir: Path, nodes: int) -> None:
    found = sorted(path.name for path in data_dir.glob("n*") if path.is_dir())
    wanted = sorted(f"n{number}" for number in range(1, nodes + 1))
    if found and found != wanted:
        raise StartError(
            f"{data_dir} holds a cluster of {', '.join(found)}, not of {nodes} nodes: say --nodes"
            f" {len(found)}, or give --data-dir a new directory"
        )


def _check_nobody_runs(data_dir: Path, node_ids: Iterable[str]) -> None:
    """Refuse before a file is changed: a running broker would be restarted from it."""
    for node_id in node_ids:
        lock = data_dir / node_id / "node.lock"
        if lock.exists():
            DirectoryLock(lock).release()


def _obituary(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}; the others go on"


def run(data_dir: Path, nodes: int, base_port: int, *, restart: bool) -> int:
    """Run the brokers until Ctrl-C; return the exit code."""
    try:
        brokers = prepare(data_dir, nodes, base_port)
    except OSError as error:
        where = error.filename or data_dir
        raise StartError(
            f"{where} cannot be used: {error.strerror}: give --data-dir a directory that can be"
            " written to"
        ) from error
    return asyncio.run(Supervisor(brokers, restart=restart, out=sys.stdout).run())
