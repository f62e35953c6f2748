"""Room on the disk: a warning before it runs out, and a reserve for when it has.

LMDB needs free pages even to delete, and the journal needs some to record that a task is done. So
the data directory holds a ballast file while there is plenty of room. When the disk is nearly full
the file is deleted, and its space carries completions until an operator makes room.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

_logger = logging.getLogger(__name__)

BALLAST_FILE: Final = "ballast"
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(folder: Path) -> int:
    """Return the bytes that an unprivileged process may still write in ``folder``."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


class Headroom:
    """Watches the free bytes of a data directory and keeps its ballast."""

    def __init__(
        self,
        folder: Path,
        *,
        reserve_bytes: int,
        ballast_bytes: int,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        """Create it; ``low`` holds from below ``reserve_bytes`` free until a quarter more is free.

        The ballast is deleted if less than half of its own size is free, and written again if the
        disk would not be low after that.
        """
        self._folder = folder
        self._ballast = folder / BALLAST_FILE
        self._reserve_bytes = reserve_bytes
        self._ballast_bytes = ballast_bytes
        self._free = free
        self.low = False
        self.free_bytes = 0

    @property
    def has_ballast(self) -> bool:
        """Whether there is a ballast to delete."""
        return self._ballast.exists()

    @property
    def wants_ballast(self) -> bool:
        """Whether ``lay_ballast`` would be of use now."""
        spare = self.free_bytes - self._ballast_bytes
        return self._ballast_bytes > 0 and spare >= self._plenty and not self.has_ballast

    @property
    def _plenty(self) -> int:
        return self._reserve_bytes * 5 // 4

    def look(self) -> bool:
        """Measure; delete the ballast if needed. Return whether the disk is low."""
        self.free_bytes = self._free(self._folder)
        if self.free_bytes < self._ballast_bytes // 2:
            self.give_up()
        low = self.free_bytes < (self._plenty if self.low else self._reserve_bytes)
        if low != self.low:
            self.low = low
            text = "the disk is nearly full" if low else "the disk has room again"
            _logger.warning(
                text, extra={"folder": str(self._folder), "free_bytes": self.free_bytes}
            )
        return low

    def give_up(self) -> bool:
        """Delete the ballast; return False if there was none."""
        try:
            self._ballast.unlink()
        except FileNotFoundError:
            return False
        _logger.warning("gave the ballast up", extra={"folder": str(self._folder)})
        self.free_bytes = self._free(self._folder)
        return True

    def lay_ballast(self) -> None:
        """Write the ballast, in a thread; without room for it, do nothing."""
        partial = self._ballast.with_name(BALLAST_FILE + ".partial")
        try:
            file = os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(file, 0, self._ballast_bytes)
            finally:
                os.close(file)
            partial.rename(self._ballast)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno not in NO_ROOM:
                raise
