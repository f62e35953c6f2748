"""The memory and processor time that the worker's processes use together."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

import psutil

SAMPLE_S = 5.0
"""How often all processes are sampled."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The usage at one moment."""

    taken_s: float
    """By the monotonic clock."""
    memory_bytes: int
    """Resident memory; pages that processes share are counted in each."""
    cpu_s: float
    """Processor time since the worker's start, including that of ended processes."""
    cpu_cores: float
    """Processor time per second since the previous sample."""
    processes: int


class Usage:
    """Samples this process and all below it, including those that handlers start."""

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._cpu_s: dict[psutil.Process, float] = {}
        self._last = Sample(-math.inf, 0, 0.0, 0.0, 0)

    async def run(self) -> None:
        """Sample until cancelled; in a thread, because it takes some milliseconds."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(SAMPLE_S)

    def sample(self) -> Sample:
        """Return the last sample; all zeros before the first."""
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
