"""The machine on which the figures were measured."""

from __future__ import annotations

import os
import platform
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.figures import percentile

FSYNCS = 200
APPEND_BYTES = 4_096


def describe(data_dir: Path | None, command: str) -> dict[str, str]:
    """Everything that a reader needs to judge the figures, measured or read just now."""
    folder = data_dir or Path(tempfile.gettempdir())
    memory_gib = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores, shared by everything measured",
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "disk": f"{_file_system(folder)}, fdatasync p50 {fsync_p50_ms(folder):.2f} ms",
    }


class Bystanders:
    """The share of the machine that other programs used during a measurement."""

    def __init__(self) -> None:
        self._begun_s = time.perf_counter()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def share(self) -> float:
        """The share of all cores since this object was made; 0: no other program ran."""
        elapsed_s = time.perf_counter() - self._begun_s
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, others_s / (elapsed_s * (os.cpu_count() or 1)))


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _own_s() -> float:
    """The time of this process and its ended children: the brokers end before a figure is made."""
    own, ended = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def fsync_p50_ms(folder: Path) -> float:
    """Measure what one small durable append costs here."""
    samples: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(FSYNCS):
            file.write(bytes(APPEND_BYTES))
            file.flush()
            begun_s = time.perf_counter()
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - begun_s)
    return percentile(samples, 50) * 1e3


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Name the file system below ``folder``, as figures of a tmpfs say nothing about a disk."""
    mounts = [
        part
        for part in psutil.disk_partitions(all=True)
        if folder.resolve().is_relative_to(part.mountpoint)
    ]
    if not mounts:
        return "unknown file system"
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype
