"""What the journal writes between two fsyncs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tq_cluster.raft.disk import Disk
from tq_cluster.raft.records import PREAMBLE


@dataclass(slots=True)
class Write:
    """What is appended to one file."""

    name: str
    parts: list[bytes] = field(default_factory=list)
    creates: bool = False


@dataclass(slots=True)
class Batch:
    """What the next job writes, in order, and what it makes durable."""

    writes: list[Write] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    pos: int = 0
    last_index: int = 0

    def create(self, name: str) -> None:
        self.writes.append(Write(name, [PREAMBLE], creates=True))

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        if not self.writes or self.writes[-1].name != name:
            self.writes.append(Write(name))
        self.writes[-1].parts.extend(parts)

    def run(self, disk: Disk) -> None:
        """Write, fsync, and only then delete. A segment is on disk before the next one is made."""
        for write in self.writes:
            disk.append(write.name, b"".join(write.parts))
            disk.sync(write.name)
            if write.creates:
                disk.sync_names()
        for name in self.deletes:
            # One by one and oldest first, so that the remaining segments never have a gap.
            disk.delete(name)
            disk.sync_names()
