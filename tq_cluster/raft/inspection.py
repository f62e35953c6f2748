"""What a data directory holds, seen from outside, with no node on it. Nothing in it is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from google.protobuf.message import DecodeError

from tq.internal.v1 import log_pb2
from tq_cluster.core import queries
from tq_cluster.core.types import AppliedAt
from tq_cluster.errors import FatalError, StartError
from tq_cluster.raft.identity import Identity, read_identity
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.overlay import OverlayDisk
from tq_cluster.raft.pysyncobj_core import NO_OP
from tq_cluster.raft.startup import Alignment, align
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage.directory import Current, peek
from tq_cluster.storage.environment import DATA_FILE, read_state
from tq_cluster.storage.lock import is_locked
from tq_cluster.storage.store import CONDEMNED


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """A disk that outlived its cluster."""

    path: Path
    identity: Identity | None = None
    applied: AppliedAt | None = None
    """How far its state goes; the journal goes on from there."""
    first_index: int = 0
    last: AppliedAt | None = None
    """The last entry of its journal, and that entry's term."""
    term: int = 0
    """The highest term that it heard of."""
    certain_ms: int = 0
    """Log time of the last decision in its state: what a state holds, a majority had."""
    decided_ms: int = 0
    """Log time of the last decision in its journal, which a majority may not have had."""
    written_at_ms: int = 0
    """When its journal was last written, by its machine's wall clock."""
    cluster_id: str = ""
    members: Mapping[str, str] = field(default_factory=dict)
    """Node id to incarnation, as its state has them."""
    fault: str = ""
    """Why nothing can be made of it. Empty: it is sound as far as was looked."""

    @property
    def node_id(self) -> str:
        return self.identity.node_id if self.identity is not None else "?"

    @property
    def is_member(self) -> bool:
        """Whether it is the disk that the cluster knew under its node's name."""
        identity = self.identity
        return identity is not None and self.members.get(identity.node_id) == identity.incarnation


def inspect(path: Path) -> Survivor:
    """Look at a data directory; what is wrong with it stands in the result."""
    try:
        if not path.is_dir():
            return Survivor(path=path, fault="is no directory")
        if is_locked(path / "node.lock"):
            return Survivor(path=path, fault="is in use: its node still runs")
        identity = read_identity(path)
        if identity is None:
            return Survivor(path=path, fault="holds no identity: no node was ever on it")
        return _inspected(path, identity)
    except (StartError, FatalError) as error:
        return Survivor(path=path, fault=str(error))
    except OSError as error:
        return Survivor(path=path, fault=f"cannot be read: {error}")


def current_state(path: Path) -> Current:
    """Find the state of a data directory; StartError where damage was found in it."""
    current = peek(path)
    if (current.path / CONDEMNED).exists():
        raise StartError(f"the state in {current.path} was found to be damaged")
    return current


def aligned_journal(path: Path, applied: AppliedAt) -> tuple[Journal, Alignment]:
    """Open the journal of a data directory, to be read alone, in line with its state."""
    journal = Journal(OverlayDisk(path / "journal"), InlineSyncer(), on_fatal=_raise)
    return journal, align(journal, applied, current_state(path).installed)


def _inspected(path: Path, identity: Identity) -> Survivor:
    with read_state(current_state(path).path / DATA_FILE) as view:
        applied = view.applied
        membership = queries.membership(view) or ("", {})
        certain_ms = decided_ms = int(queries.log_time(view))
    journal, alignment = aligned_journal(path, applied)
    fault = ""
    if alignment is Alignment.REBUILD:
        fault = "its state ends before its journal begins: it was waiting for the others' state"
    last_index = journal.last_index
    last_term = journal.term_at(last_index)
    assert last_term is not None
    for index in range(last_index, max(applied.index, journal.first_index), -1):
        if at_ms := _decided_ms(journal.entry(index)[0]):
            decided_ms = max(decided_ms, at_ms)
            break
    return Survivor(
        path=path,
        identity=identity,
        applied=applied,
        first_index=journal.first_index,
        last=AppliedAt(last_index, last_term),
        term=journal.getCurrentTerm(),
        certain_ms=certain_ms,
        decided_ms=decided_ms,
        written_at_ms=_written_at_ms(path),
        cluster_id=membership[0] or identity.cluster_id or "",
        members=membership[1],
        fault=fault,
    )


def _decided_ms(command: bytes) -> int:
    if not command or command == NO_OP:
        return 0
    try:
        return log_pb2.Entry.FromString(command).now_ms
    except DecodeError as error:
        raise StartError(f"an entry of the journal cannot be read: {error}") from error


def _written_at_ms(path: Path) -> int:
    files = (path / "journal").iterdir()
    return max((file.stat().st_mtime_ns // 1_000_000 for file in files), default=0)


def _raise(error: FatalError) -> NoReturn:
    raise error
