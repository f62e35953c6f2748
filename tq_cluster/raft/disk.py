"""The disk that the journal needs, and the real one.

Simulations use one that loses unsynced bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tq_cluster.storage.files import make_folder
from tq_cluster.storage.headroom import NO_ROOM


class Disk(Protocol):
    """A folder of files that only grow at their end.

    ``append``, ``sync``, ``sync_names`` and ``delete`` come from one thread at a time, not always
    the same; ``read`` may run beside them. Every method may raise OSError.
    """

    def names(self) -> list[str]:
        """Return the names of all files, in order."""

    def size(self, name: str) -> int: ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes; fewer if the file ends before."""

    def append(self, name: str, data: bytes) -> None:
        """Write ``data`` at the end of the file, which is created if it does not exist."""

    def truncate(self, name: str, size: int) -> None: ...

    def sync(self, name: str) -> None:
        """Return once the file's bytes survive a power cut."""

    def sync_names(self) -> None:
        """Return once the creations and deletions of files so far survive a power cut."""

    def delete(self, name: str) -> None: ...


class FileDisk:
    """A directory of a real file system. Keeps its files open."""

    def __init__(self, path: Path, relief: Callable[[], bool] = lambda: False) -> None:
        """``relief`` is called if there is no room to write, and returns whether it made some."""
        make_folder(path)
        self._relief = relief
        self.path = path
        self._files: dict[str, int] = {}
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_file())

    def size(self, name: str) -> int:
        return os.fstat(self._file(name)).st_size

    def read(self, name: str, offset: int, size: int) -> bytes:
        file = self._file(name)
        parts = []
        while size > 0 and (part := os.pread(file, size, offset)):
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def append(self, name: str, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._file(name, os.O_CREAT), rest) :]
            except OSError as error:
                # Nothing of this piece was written: what went before it stays where it is.
                if error.errno not in NO_ROOM or not self._relief():
                    raise

    def truncate(self, name: str, size: int) -> None:
        os.ftruncate(self._file(name), size)

    def sync(self, name: str) -> None:
        os.fdatasync(self._file(name))

    def sync_names(self) -> None:
        os.fsync(self._folder)

    def delete(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            os.close(file)
        (self.path / name).unlink()

    def close(self) -> None:
        """Close every file."""
        for file in (*self._files.values(), self._folder):
            os.close(file)
        self._files.clear()

    def _file(self, name: str, flags: int = 0) -> int:
        file = self._files.get(name)
        if file is None:
            file = os.open(self.path / name, os.O_RDWR | os.O_APPEND | flags, 0o644)
            self._files[name] = file
        return file
