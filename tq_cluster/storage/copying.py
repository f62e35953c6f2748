"""Copy a state that is in use, and read the copy, in other processes.

To abort a write transaction, py-lmdb 3.0 waits until no other operation uses the environment; a
copy in a thread would block the event loop for its whole duration. LMDB allows readers in other
processes. Reading every row in a thread would take the interpreter from the loop two thirds of the
time.
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
    """Write the last commit of the state in ``path`` to ``file``, without free pages.

    The copying process runs at low priority. Returns when all of it is written; OSError if that
    fails, or if the other end is closed.
    """
    code, said = _run(_COPY, str(path), str(MAP_BYTES), str(LIB_VERSION), output=file)
    if code != 0:
        raise OSError(said or f"the copying process ended with {code}")


def check_rows(file: Path, given_up: Callable[[], bool]) -> None:
    """Read every row of the state in a file of its own; CorruptRowError if one is damaged.

    OSError if the check did not finish, at the latest soon after ``given_up`` holds: a node that
    stops does not wait for all rows of a large state.
    """
    arguments = (str(file), str(_CORRUPT))
    code, said = _run(_CHECK, *arguments, output=subprocess.DEVNULL, given_up=given_up)
    if code == _CORRUPT:
        raise CorruptRowError(said)
    if code != 0:
        raise OSError(said or f"the checking process ended with {code}")


def find_damage(file: Path) -> str:
    """Read every row and page of a closed state; return the damage in words, or "".

    Damage that crashes the reading process counts. OSError if the reading failed in another way.
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
    """Return whether reading a state's cluster and counters rows crashes the process."""
    code, _ = _run(_LOOK, str(file), output=subprocess.DEVNULL)
    return code in _CRASHES


def _run(
    program: str, *arguments: str, output: int, given_up: Callable[[], bool] = lambda: False
) -> tuple[int, str]:
    """Run a program to its end; return its exit code and the last line of its stderr."""
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
