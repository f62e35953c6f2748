"""One broker process that can be killed, paused and started again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

LOG_TAIL_LINES = 40
COMPLAINT = re.compile(r"^Traceback| (error|critical) +\S")
TQ_CLUSTER = ("-m", "tq_cluster")


class BrokerProcess:
    """A broker with its own configuration, data directory and log, all below ``folder``."""

    def __init__(
        self,
        node_id: str,
        folder: Path,
        members: Mapping[str, Mapping[str, str]],
        *,
        launcher: Sequence[str] = TQ_CLUSTER,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.node_id = node_id
        self.address = members[node_id]["api"]
        self.data_dir = folder / node_id
        self.log_path = folder / f"{node_id}.log"
        self._config_path = folder / f"{node_id}.yaml"
        self._launcher = tuple(launcher)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.paused = False
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "node_id": node_id,
            "data_dir": str(self.data_dir),
            "members": {name: dict(member) for name, member in members.items()},
        }
        self._config_path.write_text(yaml.safe_dump(config))

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process; it is up once its status can be asked."""
        assert self._process is None, f"{self.node_id} runs already"
        # A variable of the surrounding shell must not reach into the nodes' configuration.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TQ_")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, *self._launcher, "serve", "--config", str(self._config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, "PYTHONUNBUFFERED": "1", **self._environment},
                start_new_session=True,
            )
        self.paused = False

    def exited(self) -> int | None:
        """The exit code when the process ended by itself; None while it runs or after ``kill``."""
        return self._process.poll() if self._process is not None else None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        if self._process is not None:
            self._process.kill()
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
        """SIGTERM, then wait for the end; SIGKILL when it does not come. Returns the exit code."""
        if self._process is None:
            return None
        if self.paused:
            self.resume()
        self._process.terminate()
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
        """What it logged that no fault from outside explains: errors of its own, tracebacks."""
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if COMPLAINT.search(line)]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.node_id} does not run"
        self._process.send_signal(number)
