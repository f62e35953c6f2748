"""The demo's tq-worker processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from demo.handlers import RUNS_DIR_VARIABLE
from demo.trace import ROOT

CONCURRENCY = 16


class Workers:
    """``count`` processes of ``tq-worker run`` with their logs and run files below ``folder``."""

    def __init__(self, folder: Path, addresses: Sequence[str], queue: str, count: int) -> None:
        self._folder = folder
        self._addresses = ",".join(addresses)
        self._queue = queue
        self._count = count
        self._runs_dir = folder / "runs"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [process.pid for process in self._processes]

    def start(self) -> None:
        """Start them all; they claim as soon as they find a leader."""
        self._runs_dir.mkdir(parents=True)
        for number in range(self._count):
            with self.log_path(number).open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "tq_worker", "run"),
                            *("--handlers", "demo.handlers"),
                            *("--queues", self._queue),
                            *("--concurrency", str(CONCURRENCY)),
                        ],
                        cwd=ROOT,
                        env={
                            **os.environ,
                            "TQ_ADDRESS": self._addresses,
                            RUNS_DIR_VARIABLE: str(self._runs_dir),
                        },
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def log_path(self, number: int) -> Path:
        """Where a worker's output goes."""
        return self._folder / f"worker-{number + 1}.log"

    def check_alive(self) -> None:
        """Raise when a worker ended by itself."""
        for number, process in enumerate(self._processes):
            if process.poll() is not None:
                tail = "\n".join(self.log_path(number).read_text().splitlines()[-30:])
                raise RuntimeError(
                    f"worker {number + 1} ended by itself with code {process.returncode}:\n{tail}"
                )

    async def stop(self, within_s: float = 20) -> None:
        """SIGTERM all of them and wait; SIGKILL what does not end."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                await asyncio.to_thread(process.wait, within_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def runs(self) -> Counter[str]:
        """How often a handler was started for each task, as the handlers wrote it down."""
        return Counter(
            line.split()[0]
            for path in self._runs_dir.glob("*.runs")
            for line in path.read_text().splitlines()
        )
