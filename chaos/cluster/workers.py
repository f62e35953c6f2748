"""Processes of ``tq-worker run``, which faults may kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LOG_TAIL_LINES = 30


class WorkerProcesses:
    """``count`` workers w1, w2, ... with their logs below ``folder``."""

    def __init__(
        self,
        folder: Path,
        addresses: Sequence[str],
        *,
        count: int,
        handlers: str,
        queue: str,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._command = [
            *(sys.executable, "-m", "tq_worker", "run"),
            *("--handlers", handlers, "--queues", queue, "--address", ",".join(addresses)),
            *options,
        ]
        self._environment = {**os.environ, **(environment or {})}
        self._names = [f"w{number + 1}" for number in range(count)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the workers that do not run; they claim as soon as they find a leader."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in self._names:
            if name in self._processes:
                continue
            with self.log_path(name).open("ab") as log:
                self._processes[name] = subprocess.Popen(  # noqa: S603  # our own command
                    self._command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A group of its own: a worker has children, which die with it.
                    start_new_session=True,
                )

    def log_path(self, name: str) -> Path:
        """Where a worker's output goes."""
        return self._folder / f"{name}.log"

    def kill(self, name: str) -> None:
        """SIGKILL a worker and the processes that run its handlers."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def check_alive(self) -> None:
        """Raise if a worker ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                code = process.returncode
                raise RuntimeError(
                    f"{name} ended by itself with code {code}:\n{self.log_tail(name)}"
                )

    def log_tail(self, name: str) -> str:
        """The last lines that a worker logged."""
        text = self.log_path(name).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"--- {name}: last lines of {self.log_path(name)}", *text])

    async def stop(self, within_s: float = 20) -> None:
        """SIGTERM all workers and wait; SIGKILL those that do not end."""
        for process in self._processes.values():
            process.terminate()
        for name, process in list(self._processes.items()):
            try:
                await asyncio.to_thread(process.wait, within_s)
            except subprocess.TimeoutExpired:
                self.kill(name)
        self._processes.clear()
