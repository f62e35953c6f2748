"""What a process that a signal or its disk ended leaves to the next one.

LMDB trusts what the heads of its pages say. Damage there can lead it anywhere in memory: the
process ends by SIGBUS, SIGSEGV or SIGABRT without a word, and again at every start. So the
interpreter writes where it stood to a file that is open from the start on. A process that finds
something in it has the whole state read, by yet another process, before it opens it.
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
    """Have a signal that ends this process told in the data directory ``folder``, from now on."""
    faulthandler.enable((folder / CRASH_FILE).open("ab", buffering=0), all_threads=False)


def note_failure(folder: Path, error: Exception) -> None:
    """Have the next process that opens the data directory look its state through, too."""
    with (folder / CRASH_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")


def read_crash(folder: Path) -> str:
    """Return what the last process in the data directory wrote as it ended, or nothing."""
    try:
        with (folder / CRASH_FILE).open("rb") as file:
            return file.read(_TOLD_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def forget_crash(folder: Path) -> None:
    """Note that the crash was dealt with."""
    os.truncate(folder / CRASH_FILE, 0)


def quarantine_if_damaged(state: Path) -> str:
    """Read all of a state over which a process ended; say what is damaged, or nothing.

    A damaged one is not opened again. OSError where that could not be found out.
    """
    if not (state / DATA_FILE).exists():
        return ""
    undo_unsettled(state, state / DATA_FILE)
    reason = find_damage(state / DATA_FILE)
    if reason:
        quarantine(state, reason)
    return reason
