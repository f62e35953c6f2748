"""Crash records, so that the next process checks the state before it opens it.

LMDB trusts its page headers. Damage there can lead it anywhere in memory: the process ends by
SIGBUS, SIGSEGV or SIGABRT without a message, and again at every start. So the interpreter writes
its stack to a file that is open from the start on. If the next process finds a record there, it has
another process read the whole state before it opens it.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
from typing import Final

from tq_cluster.storage.copying import find_damage
from tq_cluster.storage.environment import DATA_FILE
from tq_cluster.storage.settled import undo_unsettled
from tq_cluster.storage.store import quarantine

CRASH_FILE: Final = "crash.txt"
_TOLD_BYTES: Final = 8_192


def record_crashes(folder: Path) -> None:
    """Record a fatal signal of this process in the data directory ``folder``, from now on."""
    faulthandler.enable((folder / CRASH_FILE).open("ab", buffering=0), all_threads=False)


def note_failure(folder: Path, error: Exception) -> None:
    """Record a failure, so that the next process checks the state in the data directory."""
    with (folder / CRASH_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")


def read_crash(folder: Path) -> str:
    """Return the crash record of the last process in the data directory, or ""."""
    try:
        with (folder / CRASH_FILE).open("rb") as file:
            return file.read(_TOLD_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def forget_crash(folder: Path) -> None:
    """Clear the crash record once the crash was dealt with."""
    os.truncate(folder / CRASH_FILE, 0)


def quarantine_if_damaged(state: Path) -> str:
    """Read all of a state after a crash; return the damage in words, or "".

    A damaged state is quarantined. OSError if the reading failed in another way.
    """
    if not (state / DATA_FILE).exists():
        return ""
    undo_unsettled(state, state / DATA_FILE)
    reason = find_damage(state / DATA_FILE)
    if reason:
        quarantine(state, reason)
    return reason
