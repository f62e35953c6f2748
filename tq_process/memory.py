"""Returns the memory of large requests and replies to the system once they are over."""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

_logger = logging.getLogger(__name__)

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

MMAP_BYTES: Final = 512 << 10
"""A block of at least this size goes back to the system as soon as it is freed. By default glibc
raises this limit to 32 MiB as it meets such blocks; then one live byte behind them keeps them."""
TRIM_BYTES: Final = 4 << 20
"""How much free memory is kept at the end of the heap."""
ARENAS_MAX: Final = 2
"""The most heaps: each keeps its own free memory, and by default threads have eight per core."""
EVERY_S: Final = 20.0
SLACK_BYTES: Final = 8 << 20
"""For less free memory than this it is not worth trimming the whole heap."""


def return_memory() -> None:
    """Make the C library return freed memory; logs it if the library has no mallopt."""
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


class _Statistics(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def free_bytes() -> int:
    """The free memory in the heaps of the C library, in bytes, returned to the system or not.

    The memory held stands in for it with glibc before 2.33, which does not tell.
    """
    try:
        statistics = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return held_bytes()
    statistics.restype = _Statistics
    return int(statistics().fordblks)


def held_bytes(process: int | str = "self") -> int:
    """The anonymous memory of a process, in bytes; OSError or LookupError if it is unknown."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise LookupError(f"/proc/{process}/status has no RssAnon")


class FreedMemory:
    """Returns free memory in the middle of the heap to the system after each burst.

    Blocks below `MMAP_BYTES` leave holes of many pages between live ones. To find them takes glibc
    about 10 ms for 100 MiB; it runs in a thread, but other threads cannot allocate meanwhile.

    The next trim may return what was freed since the last one. The memory that the process holds
    does not show that: if a trim runs while calls still end, the later ones leave holes, and the
    process holds as much as before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        held: Callable[[], int] = held_bytes,
        free: Callable[[], int] = free_bytes,
        trim: Callable[[], object] = _trim,
    ) -> None:
        self._loop = loop
        self._held = held
        self._free = free
        self._trim = trim
        self._least_free = 0
        """The least since the last trim."""
        self._before = 0

    def begin(self) -> None:
        """Check every `EVERY_S`, if the C library and the system support that."""
        try:
            self._trim()
            self._before, self._least_free = self._held(), self._free()
        except (OSError, AttributeError, LookupError):
            return
        self._wait()

    def _wait(self) -> None:
        self._loop.call_later(EVERY_S, self._look)

    def _look(self) -> None:
        held = self._held()
        over, self._before = held <= self._before + SLACK_BYTES, held
        free = self._free()
        self._least_free = min(self._least_free, free)
        if over and free > self._least_free + SLACK_BYTES:
            self._loop.run_in_executor(None, self._trim).add_done_callback(self._trimmed)
        else:
            self._wait()

    def _trimmed(self, trimming: asyncio.Future[object]) -> None:
        if not trimming.cancelled():
            trimming.result()
            self._before, self._least_free = self._held(), self._free()
            self._wait()
