"""Copying a state that is in use, and reading the copy: by other processes.

To end a write transaction that did not commit, as every decision does, py-lmdb 3.0 waits until
nothing else is being done with the environment; a copy in a thread would hold the event loop from
its beginning to its end. LMDB's readers may be processes of their own. Reading every row
in a thread would take the interpreter from the loop two thirds of the time.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tq_cluster.storage.environment import LIB_VERSION, MAP_BYTES
from tq_cluster.storage.rows import CorruptRowError

LOOK_S: Final = 0.1

_COPY: Final = """
import lmdb, os, sys
os.nice(10)
environment = lmdb.open(
    sys.argv[1],
    map_size=int(sys.argv[2]),
    lib_version=int(sys.argv[3]),
    readonly=True,
    readahead=False,
)
environment.copyfd(1, compact=True)
"""

_CHECK: Final = """
import os, pathlib, sys
from tq_cluster.storage.environment import check_state
from tq_cluster.storage.rows import CorruptRowError
os.nice(10)
try:
    check_state(pathlib.Path(sys.argv[1]), rows=True)
except CorruptRowError as error:
    sys.stderr.write(str(error))
    sys.exit(int(sys.argv[2]))
"""
_CORRUPT: Final = 3
_CRASHES: Final = frozenset({-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE})

_READ_ALL: Final = """
import pathlib, sys
from tq_cluster.errors import DamagedStateError
from tq_cluster.storage.environment import check_pages
from tq_cluster.storage.rows import CorruptRowError
try:
    check_pages(pathlib.Path(sys.argv[1]))
except (CorruptRowError, DamagedStateError) as error:
    sys.stderr.write(str(error))
    sys.exit(int(sys.argv[2]))
"""

_LOOK: Final = """
import pathlib, sys
from tq_cluster.core.reads import queries
from tq_cluster.storage.environment import read_state
with read_state(pathlib.Path(sys.argv[1])) as view:
    queries.membership(view)
    queries.log_time(view)
"""


def copy_committed(path: Path, file: int) -> None:
    """Write what was last committed to the state in ``path``, without what is free in its file.

    The process that does it leaves the cores to whoever wants them. Returns when all of it is
    written; OSError when that fails, or nobody reads at the other end.
    """
    code, said = _run(_COPY, str(path), str(MAP_BYTES), str(LIB_VERSION), output=file)
    if code != 0:
        raise OSError(said or f"the copying process ended with {code}")


def check_rows(file: Path, given_up: Callable[[], bool]) -> None:
    """Read every row of the state in a file of its own; CorruptRowError if one is damaged.

    OSError where that could not be found out, soon after ``given_up`` holds at the latest: a node
    that stops does not wait for all rows of a large state.
    """
    arguments = (str(file), str(_CORRUPT))
    code, said = _run(_CHECK, *arguments, output=subprocess.DEVNULL, given_up=given_up)
    if code == _CORRUPT:
        raise CorruptRowError(said)
    if code != 0:
        raise OSError(said or f"the checking process ended with {code}")


def find_damage(file: Path) -> str:
    """Read every row and every page of a state that nobody has open; say what is damaged, if any.

    Damage that ends whoever reads it counts. OSError where the reading failed in another way.
    """
    code, said = _run(_READ_ALL, str(file), str(_CORRUPT), output=subprocess.DEVNULL)
    if code in _CRASHES:
        return f"reading it ends the process with {signal.Signals(-code).name}"
    if code == _CORRUPT:
        return said
    if code != 0:
        raise OSError(said or f"the reading process ended with {code}")
    return ""


def head_is_deadly(file: Path) -> bool:
    """Whether what a state says of itself ends the process that reads it."""
    code, _ = _run(_LOOK, str(file), output=subprocess.DEVNULL)
    return code in _CRASHES


def _run(
    program: str, *arguments: str, output: int, given_up: Callable[[], bool] = lambda: False
) -> tuple[int, str]:
    """Run it to its end; its exit code, and the last line of what it complained of."""
    with subprocess.Popen(  # noqa: S603 - the programs are the texts above, the paths our own
        [sys.executable, "-I", "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
    ) as process:
        complaint: bytes | None = None
        while complaint is None:
            try:
                _, complaint = process.communicate(timeout=LOOK_S)
            except subprocess.TimeoutExpired:
                if given_up():
                    process.kill()
    return process.returncode, complaint.decode(errors="replace").strip().rpartition("\n")[2]
