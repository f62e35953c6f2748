"""tq-cluster with marked places at which it can be made to die, for tests alone.

A file that the environment names holds one place, such as ``before journal fsync``. The process
that reaches the place removes the file and kills itself, as a power cut would: nothing is flushed.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from chaos.nemeses.failpoint import FILE_VARIABLE, SMALL_JOURNAL_VARIABLE
from tq_cluster import __main__ as tq_cluster
from tq_cluster.node import node
from tq_cluster.raft import startup
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.elections import Elections
from tq_cluster.raft.journal import Journal, JournalLimits
from tq_cluster.raft.output import OutputCommit
from tq_cluster.storage import directory, snapshot
from tq_cluster.storage.store import Store

PLACES: tuple[tuple[str, Any, str], ...] = (
    ("journal append", FileDisk, "append"),
    ("journal fsync", FileDisk, "sync"),
    ("vote", Elections, "send_vote"),
    ("acknowledgement", OutputCommit, "release"),
    ("state commit", Store, "begin_commit"),
    ("state sync", Store, "sync_commit"),
    ("pointer switched", directory, "write_record"),
    ("compaction", Journal, "compact"),
    ("snapshot copied", snapshot, "make_snapshot"),
    ("snapshot installed", snapshot, "install_snapshot"),
)
SMALL_JOURNAL = JournalLimits(segment_bytes=64 << 10, retain_bytes=64 << 10, retain_entries=100)


def die_at(place: str) -> None:
    """Kill this process if the file names this place."""
    file = Path(os.environ[FILE_VARIABLE])
    try:
        told = file.read_text()
    except FileNotFoundError:
        return
    if told == place:
        file.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)


def marked(function: Callable[..., Any], place: str) -> Callable[..., Any]:
    """Wrap a function with a place to die before and after it."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # any signature
        die_at(f"before {place}")
        result = function(*args, **kwargs)
        die_at(f"after {place}")
        return result

    return run


def main() -> None:
    """Run tq-cluster with every place marked."""
    for place, holder, name in PLACES:
        mock.patch.object(holder, name, marked(getattr(holder, name), place)).start()
    if SMALL_JOURNAL_VARIABLE in os.environ:
        small = functools.partial(startup.open_data, limits=SMALL_JOURNAL)
        mock.patch.object(node, "open_data", small).start()
    tq_cluster.main()


if __name__ == "__main__":
    main()
