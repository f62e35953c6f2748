"""One broker process that can be killed, paused and started again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from chaos.cluster import commands

LOG_TAIL_LINES = 40
COMPLAINT = re.compile(r"^Traceback|^\S+Z \S+ (error|critical) +\S")
TQ_CLUSTER = ("-m", "tq_cluster")


class SetupConflictError(ValueError):
    """Two faults need a node to be started in incompatible ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSetup:
    """How a node's process is started, if not in the default way."""

    wrapper: tuple[str, ...] = ()
    """Put before the command: ``("unshare", "-T", "--monotonic", "5")`` for example. It may stay as
    the broker's parent: signals go to the whole process group."""
    environment: Mapping[str, str] = field(default_factory=dict)
    data_dir: Path | None = None
    """On a file system that a fault can be injected into; None: beside the node's log."""
    launcher: tuple[str, ...] | None = None
    """Arguments of the interpreter, in place of ``-m tq_cluster``."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Further fields of the node's configuration file."""

    def with_(self, other: NodeSetup) -> NodeSetup:
        """Add what ``other`` asks for; its wrapper goes around this one's."""
        if self.data_dir and other.data_dir and self.data_dir != other.data_dir:
            raise SetupConflictError(f"data in {self.data_dir} and in {other.data_dir}")
        for name in self.environment.keys() & other.environment.keys():
            # LD_PRELOAD can hold several libraries; anything else can have one value.
            if name != "LD_PRELOAD" and self.environment[name] != other.environment[name]:
                raise SetupConflictError(f"two values for {name}")
        preloads = [
            setup.environment["LD_PRELOAD"]
            for setup in (self, other)
            if "LD_PRELOAD" in setup.environment
        ]
        preload = {"LD_PRELOAD": " ".join(dict.fromkeys(preloads))} if preloads else {}
        return replace(
            self,
            wrapper=other.wrapper + self.wrapper,
            environment={**self.environment, **other.environment, **preload},
            data_dir=self.data_dir or other.data_dir,
            launcher=other.launcher or self.launcher,
            settings={**self.settings, **other.settings},
        )


class BrokerProcess:
    """A broker with its own configuration, data directory and log, all below ``folder``."""

    def __init__(
        self,
        node_id: str,
        folder: Path,
        members: Mapping[str, Mapping[str, str]],
        *,
        setup: NodeSetup,
    ) -> None:
        self.node_id = node_id
        self.address = members[node_id]["api"]
        self.raft_address = members[node_id]["raft"]
        self.data_dir = setup.data_dir or folder / node_id
        self.log_path = folder / f"{node_id}.log"
        self._config_path = folder / f"{node_id}.yaml"
        self.setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self.paused = False
        self._members = members
        folder.mkdir(parents=True, exist_ok=True)
        self.write_config()

    @property
    def pid(self) -> int | None:
        """The process id while it runs; a wrapper's, if there is one that stays."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether it was started and neither killed nor stopped since."""
        return self._process is not None

    def write_config(
        self,
        names: Sequence[str] | None = None,
        *,
        addresses: Mapping[str, Mapping[str, str]] | None = None,
        single: bool = False,
    ) -> None:
        """Write its file; it may name other members, and strangers at unused ports.

        ``addresses`` replaces the addresses of some members.
        """
        known = {**self._members, **(addresses or {})}
        members = {}
        for place, name in enumerate(self._members if names is None else names):
            unused = {"raft": f"127.0.0.1:{2 * place + 1}", "api": f"127.0.0.1:{2 * place + 2}"}
            members[name] = dict(known.get(name, unused))
        config = {
            "node_id": self.node_id,
            "data_dir": str(self.data_dir),
            "members": members,
            **({"single": True} if single or len(self._members) == 1 else {}),
            **self.setup.settings,
        }
        self._config_path.write_text(yaml.safe_dump(config))

    def start(self) -> None:
        """Start the process; it is up once it answers a status call."""
        assert self._process is None, f"{self.node_id} runs already"
        launcher = self.setup.launcher or TQ_CLUSTER
        serve = (sys.executable, *launcher, "serve", "--config", str(self._config_path))
        inherited = commands.clean_environment()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [*self.setup.wrapper, *serve],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, "PYTHONUNBUFFERED": "1", **self.setup.environment},
                start_new_session=True,
            )
        self.paused = False

    async def command(self, name: str, *options: str) -> str:
        """Run another command of its tq-cluster to its end, and return the output."""
        launcher = self.setup.launcher or TQ_CLUSTER
        return await commands.run([*launcher, name, *options], self.setup.environment)

    async def restore(self, backup: Path) -> None:
        """Restore its data directory from a backup."""
        await self.command("restore", "--backup", str(backup), "--config", str(self._config_path))

    def exited(self) -> int | None:
        """The exit code if the process ended by itself; None while it runs or after ``kill``."""
        return self._process.poll() if self._process is not None else None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.paused = False

    def pause(self) -> None:
        """SIGSTOP: silent, but every connection stays open."""
        self._signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.paused = False

    async def stop(self, within_s: float = 15) -> int | None:
        """SIGTERM, wait, and SIGKILL if it does not end; return the exit code."""
        if self._process is None:
            return None
        if self.paused:
            self.resume()
        self._signal(signal.SIGTERM)
        try:
            code: int | None = await asyncio.to_thread(self._process.wait, within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        self._process = None
        return code

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines that it logged."""
        if not self.log_path.exists():
            return f"--- {self.node_id}: never started"
        text = self.log_path.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self.node_id}: last lines of {self.log_path}", *text])

    def complaints(self) -> list[str]:
        """Log lines that no injected fault explains: errors of its own, tracebacks."""
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if COMPLAINT.search(line)]

    def _signal(self, number: signal.Signals) -> None:
        """Signal the process and its children; one that has ended cannot be signalled."""
        assert self._process is not None, f"{self.node_id} does not run"
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)
