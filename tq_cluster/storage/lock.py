"""A lock on a directory that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tq_cluster.errors import StartError


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock on the file ``path``. Changes nothing."""
    try:
        with kept_out(path):
            return False
    except StartError:
        return True


@contextmanager
def kept_out(path: Path) -> Iterator[None]:
    """Keep other processes from the lock on the file ``path``; StartError if one holds it.

    It changes nothing, and so works on a read-only disk.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"{path.parent} is in use: its node runs") from None
        yield
    finally:
        os.close(fd)


class DirectoryLock:
    """Held from construction until ``release`` or the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock on the file ``path``; StartError if another process holds it."""
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 64, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StartError(
                f"{path.parent} is in use by process {holder or '(unknown)'}: stop it first, or"
                " give this node a data directory of its own"
            ) from None
        # In place and of fixed length: a node must start on a full disk, too.
        os.pwrite(self._fd, f"{os.getpid():<15}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
