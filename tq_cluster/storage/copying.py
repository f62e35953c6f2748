"""Copying a state that is in use: by another process.

To end a write transaction that did not commit, as every decision does, py-lmdb 3.0 waits until
nothing else is being done with the environment; a copy in a thread would hold the event loop from
its beginning to its end. LMDB's readers may be processes of their own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from tq_cluster.storage.environment import MAP_BYTES

_COPY: Final = """
import lmdb, os, sys
os.nice(10)
environment = lmdb.open(sys.argv[1], map_size=int(sys.argv[2]), readonly=True, readahead=False)
environment.copyfd(1, compact=True)
"""


def copy_committed(path: Path, file: int) -> None:
    """Write what was last committed to the state in ``path``, without what is free in its file.

    The process that does it leaves the cores to whoever wants them. Returns when all of it is
    written; OSError when that fails, or nobody reads at the other end.
    """
    copier = subprocess.run(  # noqa: S603 - the program is the text above, the path our own
        [sys.executable, "-I", "-c", _COPY, str(path), str(MAP_BYTES)],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.PIPE,
        check=False,
    )
    if copier.returncode != 0:
        said = copier.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(said or f"the copying process ended with {copier.returncode}")
