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
"""Growth up to this since the last trim is not worth trimming the whole heap."""
AGAIN_MAX: Final = 32
"""After a trim that returned little, the process looks twice as often before the next one as before
the last, at most so often.
"""


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


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


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

    If a trim runs while calls still end, the later ones leave holes, and the process holds as much
    as before. Free memory would show that, but to count it glibc walks every hole under the lock of
    its heap: 50 ms for 150,000. So it trims again, ever less often, while the process holds more
    than at its least.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        held: Callable[[], int] = held_bytes,
        trim: Callable[[], object] = _trim,
    ) -> None:
        self._loop = loop
        self._held = held
        self._trim = trim
        self._least = 0
        self._before = 0
        self._again = 1
        """How many looks lie between the last trim and the next, if no burst comes."""
        self._looks = 1
        """How many of them are left."""

    def begin(self) -> None:
        """Check every `EVERY_S`, if the C library can trim and the system tells the memory held."""
        try:
            self._trim()
            self._least = self._before = self._held()
        except (OSError, AttributeError, LookupError):
            return
        self._wait()

    def _wait(self) -> None:
        self._loop.call_later(EVERY_S, self._look)

    def _look(self) -> None:
        held = self._held()
        over = held <= self._before + SLACK_BYTES
        if not over:  # a burst: once it is over, trim at once
            self._again = self._looks = 1
        self._before = held
        self._least = min(self._least, held)
        if over and held > self._least + SLACK_BYTES:
            self._looks -= 1
            if not self._looks:
                self._loop.run_in_executor(None, self._trim).add_done_callback(self._trimmed)
                return
        self._wait()

    def _trimmed(self, trimming: asyncio.Future[object]) -> None:
        if not trimming.cancelled():
            trimming.result()
            held = self._held()
            much = held < self._before - SLACK_BYTES
            self._again = 1 if much else min(2 * self._again, AGAIN_MAX)
            self._looks = self._again
            self._before = held
            self._wait()
