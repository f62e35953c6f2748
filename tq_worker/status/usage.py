"""What the worker's processes use of the machine, all of them together."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

import psutil

SAMPLE_S = 5.0
"""How often one looks through all processes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look."""

    taken_s: float
    """By the monotonic clock."""
    memory_bytes: int
    """Resident; pages that processes share are counted in each."""
    cpu_s: float
    """Processor time since the worker's start, of processes that have ended as well."""
    cpu_cores: float
    """The same per second since the sample before."""
    processes: int


class Usage:
    """This process and all below it, those that handlers start included."""

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._cpu_s: dict[psutil.Process, float] = {}
        self._last = Sample(-math.inf, 0, 0.0, 0.0, 0)

    async def run(self) -> None:
        """Look until cancelled; in a thread, as it takes some milliseconds."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(SAMPLE_S)

    def sample(self) -> Sample:
        """Return what was seen last; nothing before the first look."""
        return self._last

    def _look(self) -> None:
        before, now_s = self._last, time.monotonic()
        memory_bytes, spent_s = 0, 0.0
        cpu_s: dict[psutil.Process, float] = {}
        for process in [self._me, *self._me.children(recursive=True)]:
            try:
                with process.oneshot():
                    memory_bytes += process.memory_info().rss
                    times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue  # it ended just now
            cpu_s[process] = times.user + times.system
            spent_s += max(0.0, cpu_s[process] - self._cpu_s.get(process, 0.0))
        self._cpu_s = cpu_s
        elapsed_s = max(now_s - before.taken_s, 1e-9)
        self._last = Sample(
            taken_s=now_s,
            memory_bytes=memory_bytes,
            cpu_s=before.cpu_s + spent_s,
            cpu_cores=spent_s / elapsed_s if before.processes else 0.0,
            processes=len(cpu_s),
        )
