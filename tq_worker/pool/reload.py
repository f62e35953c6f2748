"""Detects changed files, for `--reload`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

POLL_S = 0.3
SETTLE_S = 0.1
"""An editor may write a file in pieces: files must stay unchanged for this long."""

Stamp = tuple[int, int]
"""A file's time of modification, in nanoseconds, and its size in bytes."""
_ABSENT: Stamp = (0, 0)


class Changes:
    """Watches the files that ``files`` currently returns."""

    def __init__(self, files: Callable[[], Iterable[str]], since_ns: int) -> None:
        """Files written after ``since_ns``, when their reading began, count as changed."""
        self._files = files
        self._seen: Mapping[str, Stamp] = {
            name: stamp if stamp[0] < since_ns else _ABSENT for name, stamp in self._look().items()
        }

    async def next(self) -> list[str]:
        """Wait until files are written, made or removed after the last call; returns them."""
        while True:
            await asyncio.sleep(POLL_S)
            now = self._look()
            changed = self._since(now)
            while changed and (later := await self._settled(now)) is not None:
                now = later
            # A newly watched file has not changed.
            self._seen = now
            if changed:
                return sorted(changed)

    async def _settled(self, before: Mapping[str, Stamp]) -> dict[str, Stamp] | None:
        await asyncio.sleep(SETTLE_S)
        now = self._look()
        return None if now == before else now

    def _since(self, now: Mapping[str, Stamp]) -> list[str]:
        return [name for name, stamp in now.items() if self._seen.get(name, stamp) != stamp]

    def _look(self) -> dict[str, Stamp]:
        return {name: _stamp(name) for name in self._files()}


def _stamp(name: str) -> Stamp:
    try:
        found = Path(name).stat()
    except OSError:
        return _ABSENT
    return (found.st_mtime_ns, found.st_size)
