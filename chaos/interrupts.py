"""SIGTERM ends a program of the suite as Ctrl-C does: it first ends everything that it started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

END_S = 60.0
"""How long a process that was interrupted may take to end what it started."""


def end_in_order() -> None:
    """Have both signals raise KeyboardInterrupt, or cancel the main task of `asyncio.run`."""
    # A shell without job control starts programs in the background with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))


def run_to_its_end(command: Sequence[str], folder: Path) -> int:
    """Run another program that ends in order; return its exit code.

    If this process is interrupted, so is the other, and this one waits for it.
    """
    # In a group of its own, the other gets Ctrl-C only from here, and so only once.
    process = subprocess.Popen(command, cwd=folder, process_group=0)  # noqa: S603  # our own
    try:
        return process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
