"""A state machine that keeps every entry, its disk, and snapshots of it."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.world.virtual_loop import HostLoop
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.raft.membership import Members, members_in
from tq_cluster.raft.snapshots import Incoming, Outgoing, SnapshotError

Applied = tuple[int, int, bytes]
"""(index, term, entry)."""

BEGINNING: Applied = (1, 0, b"")


@dataclass
class StateDisk:
    """The part of a host's state that survives a crash."""

    durable: list[Applied] = field(default_factory=lambda: [BEGINNING])
    installed: AppliedAt | None = None


class KeepingMachine:
    """Implements ``door.StateMachine``: keeps every entry that it applies."""

    def __init__(self, disk: StateDisk, saw: Callable[[Applied], None]) -> None:
        self.disk = disk
        self.entries = list(disk.durable)
        self._saw = saw
        self.members = _members_of(self.entries)
        """The members' incarnations, from the last entry that names the members."""

    @property
    def applied(self) -> AppliedAt:
        return AppliedAt(*self.entries[-1][:2])

    @property
    def durable(self) -> AppliedAt:
        return AppliedAt(*self.disk.durable[-1][:2])

    @property
    def full(self) -> bool:
        return False

    def apply(self, index: int, term: int, entry: bytes) -> bool:
        assert index == self.applied.index + 1, f"entry {index} after {self.applied}"
        self.entries.append((index, term, entry))
        self.members = members_in(entry) or self.members
        self._saw(self.entries[-1])
        return True

    def commit(self) -> None:
        self.disk.durable = list(self.entries)


def _members_of(entries: list[Applied]) -> Members | None:
    changes = (members_in(entry) for _, _, entry in reversed(entries))
    return next((members for members in changes if members is not None), None)


@dataclass
class ModelledFile:
    """A snapshot file that is sent or received."""

    applied: AppliedAt
    size_bytes: int
    crc: int
    content: bytes = b""

    def read(self, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]

    def write(self, data: bytes) -> None:
        self.content += data

    def discard(self) -> None:
        self.content = b""


class ModelledStates:
    """Implements ``snapshots.States`` over a KeepingMachine."""

    def __init__(self, machine: KeepingMachine, loop: HostLoop, draw: random.Random) -> None:
        self._machine = machine
        self._loop = loop
        self._draw = draw
        self.installs = 0

    def make(self, made: Callable[[Outgoing | Exception], None]) -> None:
        entries = list(self._machine.disk.durable)

        def finish() -> None:
            content = json.dumps([(i, t, e.hex()) for i, t, e in entries]).encode("ascii")
            at = AppliedAt(*entries[-1][:2])
            made(ModelledFile(at, len(content), zlib.crc32(content), content))

        self._loop.call_later(self._draw.uniform(0.005, 0.05), finish)

    def receive(self, applied: AppliedAt, size_bytes: int, crc: int) -> Incoming:
        return ModelledFile(applied, size_bytes, crc)

    def install(self, incoming: Incoming, installed: Callable[[Exception | None], None]) -> None:
        assert isinstance(incoming, ModelledFile)

        def finish() -> None:
            if zlib.crc32(incoming.content) != incoming.crc:
                installed(SnapshotError("the file arrived damaged"))
                return
            entries = [(i, t, bytes.fromhex(e)) for i, t, e in json.loads(incoming.content)]
            machine = self._machine
            machine.entries = entries
            machine.members = _members_of(entries)
            machine.disk.durable = list(entries)
            machine.disk.installed = AppliedAt(*entries[-1][:2])
            self.installs += 1
            installed(None)

        self._loop.call_later(self._draw.uniform(0.005, 0.05), finish)

    def journal_agrees(self) -> None:
        self._machine.disk.installed = None
