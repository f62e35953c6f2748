"""A disk whose writes stay in memory: for inspecting a folder without changing it."""

from __future__ import annotations

from pathlib import Path


class OverlayDisk:
    """Implements ``disk.Disk`` over a real folder; changes are made in memory alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed: dict[str, bytearray | None] = {}

    def names(self) -> list[str]:
        found = {entry.name for entry in self._path.iterdir() if entry.is_file()}
        changed = self._changed.items()
        gone = {name for name, content in changed if content is None}
        return sorted((found | {name for name, content in changed if content is not None}) - gone)

    def size(self, name: str) -> int:
        content = self._changed.get(name)
        return len(content) if content is not None else (self._path / name).stat().st_size

    def read(self, name: str, offset: int, size: int) -> bytes:
        content = self._changed.get(name)
        if content is not None:
            return bytes(content[offset : offset + size])
        with (self._path / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def append(self, name: str, data: bytes) -> None:
        self._mine(name).extend(data)

    def truncate(self, name: str, size: int) -> None:
        del self._mine(name)[size:]

    def sync(self, name: str) -> None:
        """Do nothing: no change is to survive."""

    def sync_names(self) -> None:
        """Do nothing, as above."""

    def delete(self, name: str) -> None:
        self._changed[name] = None

    def _mine(self, name: str) -> bytearray:
        content = self._changed.get(name)
        if content is None:
            path = self._path / name
            content = bytearray(path.read_bytes() if path.exists() else b"")
            self._changed[name] = content
        return content
