"""A disk in memory that loses unsynced writes, and a syncer that the test drives."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

SECTOR_BYTES = 512


class PowerCutError(Exception):
    """The power failed during an operation."""


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class ModelledDisk:
    """A folder whose unsynced changes a power cut may keep, tear or lose."""

    files: dict[str, _File] = field(default_factory=dict)
    durable_files: dict[str, _File] = field(default_factory=dict)
    steps_left: int | None = None
    """How many more steps are taken before the power is cut; None: it stays on."""
    fail_syncs: bool = False

    def names(self) -> list[str]:
        return sorted(self.files)

    def size(self, name: str) -> int:
        return len(self.files[name].data)

    def read(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self.files[name].data[offset : offset + size])

    def append(self, name: str, data: bytes) -> None:
        file = self.files.setdefault(name, _File())
        file.data += data
        self._step()

    def truncate(self, name: str, size: int) -> None:
        self._step()
        del self.files[name].data[size:]

    def sync(self, name: str) -> None:
        self._step()
        if self.fail_syncs:
            raise OSError("Input/output error")
        self.files[name].synced = bytes(self.files[name].data)

    def sync_names(self) -> None:
        self._step()
        self.durable_files = dict(self.files)

    def delete(self, name: str) -> None:
        self._step()
        del self.files[name]

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise PowerCutError

    def power_cut(self, draw: random.Random) -> ModelledDisk:
        """Return the disk as it is when the power is back."""
        kept = dict(self.durable_files)
        for name, file in self.files.items():
            if name not in kept and draw.random() < 0.5:
                kept[name] = file
        for name in sorted(set(self.durable_files) - set(self.files)):
            # A deletion that was not synced may not have happened.
            if draw.random() < 0.5:
                del kept[name]
        files = {name: _after_power_cut(file, draw) for name, file in sorted(kept.items())}
        return ModelledDisk(files=files, durable_files=dict(files))


def _after_power_cut(file: _File, draw: random.Random) -> _File:
    """Keep what was synced and any part of the rest; sectors in it may never have been written."""
    if not file.data.startswith(file.synced):
        return _File(bytearray(file.synced), file.synced)
    stop = draw.randint(len(file.synced), len(file.data))
    data = file.data[:stop]
    at = len(file.synced)
    while at < stop:
        end = min(stop, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if draw.random() < 0.1:
            data[at:end] = bytes(end - at)
        at = end
    return _File(data, bytes(data))


class HeldSyncer:
    """Keeps the job until the test completes it."""

    def __init__(self) -> None:
        self._held: tuple[Callable[[], None], Callable[[BaseException | None], None]] | None = None

    def run(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        assert self._held is None, "one job at a time"
        self._held = (job, done)

    def finish(self) -> None:
        if self._held is not None:
            (job, done), self._held = self._held, None
            try:
                job()
            except PowerCutError:
                raise
            except OSError as error:
                done(error)
            else:
                done(None)

    @property
    def busy(self) -> bool:
        return self._held is not None
