"""The handlers' own `prometheus_client` metrics, served with the worker's.

Handler processes keep their values in files of one folder, in the library's own multi-process mode.
The worker serves the sums.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_logger = logging.getLogger(__name__)

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The library's environment variable: if it is set when a process imports the library, the process
keeps its values in that folder."""
GONE = 0
"""Used as the process id in the names of files with the sums of ended processes."""


class HandlerMetrics(Collector):
    """The metrics of all handler processes of this worker, including those that have ended.

    A gauge ends with its process.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tq-worker-metrics-"))
        self._files = threading.Lock()
        os.environ[FOLDER] = str(self._folder)

    def close(self) -> None:
        """Delete all values."""
        os.environ.pop(FOLDER, None)
        with self._files:
            shutil.rmtree(self._folder, ignore_errors=True)

    def collect(self) -> Iterable[Metric]:
        """Return every metric as it is now."""
        with self._files:
            if not self._folder.is_dir():
                return []
            self._tidy()
            try:
                collector = MultiProcessCollector(None, path=str(self._folder))  # type: ignore[no-untyped-call]  # the library's own omission
                metrics: Iterable[Metric] = collector.collect()  # type: ignore[no-untyped-call]  # as above
                return list(metrics)
            except Exception:
                # The worker's own metrics must be served all the same.
                _logger.exception("what handlers count cannot be read")
                return []

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the metrics depend on the handlers."""
        return ()

    def tidy(self) -> None:
        """Add up the counts of ended processes and delete their files."""
        with self._files:
            self._tidy()

    def _tidy(self) -> None:
        for path in self._folder.glob("*.db"):
            kind, _, pid = path.stem.rpartition("_")
            if not pid.isdecimal() or int(pid) == GONE or _lives(int(pid)):
                continue
            try:
                if not kind.startswith("gauge"):
                    _add_up(path, self._folder / f"{kind}_{GONE}.db")
            except (OSError, RuntimeError, ValueError, struct.error) as error:
                # Its process was killed while it made the file.
                facts = {"file": path.name, "error": str(error)}
                _logger.warning("what a handler process has counted is lost", extra=facts)
            path.unlink()


def wanted() -> bool:
    """Whether the library's multi-process mode is not set up already."""
    return FOLDER not in os.environ


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").is_dir()


def _add_up(ended: Path, all_ended: Path) -> None:
    sums = MmapedDict(str(all_ended))  # type: ignore[no-untyped-call]  # as above
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(ended)):  # type: ignore[no-untyped-call]  # as above
            before, _ = sums.read_value(key)  # type: ignore[no-untyped-call]  # as above
            sums.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]  # as above
    finally:
        sums.close()  # type: ignore[no-untyped-call]  # as above
