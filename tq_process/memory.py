"""Memory that large requests and replies took goes back to the system once they are over."""

from __future__ import annotations

import ctypes
import logging
from typing import Final

_logger = logging.getLogger(__name__)

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

MMAP_BYTES: Final = 512 << 10
"""From this size on a piece of memory is the system's again as soon as it is free. By itself glibc
raises that to 32 MiB as it meets such pieces; then one byte that lives behind keeps them all."""
TRIM_BYTES: Final = 4 << 20
"""So much free memory at the end of the heap is kept."""
ARENAS_MAX: Final = 2
"""Heaps: each keeps what is free in it to itself, and threads would have eight a core."""


def return_memory() -> None:
    """Have the C library give freed memory back; said in the log where it cannot be asked to."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        _logger.info("freed memory is kept by the C library", extra={"why": "it has no mallopt"})
        return
    for option, value in (
        (_M_MMAP_THRESHOLD, MMAP_BYTES),
        (_M_TRIM_THRESHOLD, TRIM_BYTES),
        (_M_ARENA_MAX, ARENAS_MAX),
    ):
        mallopt(option, value)
