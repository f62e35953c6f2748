"""Ensures that standard input, output and error are open before anything else."""

from __future__ import annotations

import os
import sys

_STANDARD = (0, 1, 2)


def open_standard_streams() -> None:
    """Open /dev/null on those of the descriptors 0, 1 and 2 that are closed.

    Call it before anything is opened. Otherwise the next file or socket gets the number, and a
    library that writes to "standard error" writes into that file, for example the journal.
    """
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            # open() returns the lowest free number: this one.
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "something was opened before the standard streams"
            os.set_inheritable(number, True)
    # The interpreter sets a stream to None if its descriptor was closed.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # stays open
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # as above
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # as above
