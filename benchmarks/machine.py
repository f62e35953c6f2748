"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.figures import percentile

FSYNCS = 200
APPEND_BYTES = 4_096


def describe(data_dir: Path | None, command: str) -> Mapping[str, str]:
    """Everything that a reader needs to judge the figures, measured or read just now."""
    folder = data_dir or Path(tempfile.gettempdir())
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    memory_gib = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores, shared by everything measured",
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "disk": f"{_file_system(folder)}, fdatasync p50 {fsync_p50_ms(folder):.2f} ms",
        "load before": load,
    }


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
    """Name the file system below ``folder``: figures of a tmpfs say nothing about a disk."""
    mounts = [
        part
        for part in psutil.disk_partitions(all=True)
        if folder.resolve().is_relative_to(part.mountpoint)
    ]
    if not mounts:
        return "unknown file system"
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype
