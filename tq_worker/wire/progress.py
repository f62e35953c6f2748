"""The progress of a handler process, in memory that outlives it.

When a handler ends its process, the parent must know which tasks had started: those failed, the
others did not. A message could be lost on the way; a number in shared memory cannot.
"""

from __future__ import annotations

import mmap
import os

_BYTES = 8


class Progress:
    """Counts the tasks that were started or given back, in the order they were handed in."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _BYTES)
        self._view = memoryview(self._memory).cast("Q")

    def advance(self, count: int) -> None:
        """Count tasks; the handler process does so before it enters their handlers."""
        self._view[0] += count

    def taken(self) -> int:
        """Return the count."""
        return self._view[0]

    def close(self) -> None:
        """Release the memory."""
        self._view.release()
        self._memory.close()


def create_shared() -> int:
    """Make the memory; returns its file descriptor, to be inherited."""
    fd = os.memfd_create("tq-worker-progress")
    os.ftruncate(fd, _BYTES)
    return fd
