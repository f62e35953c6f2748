"""Inspects a data directory that no node runs on, without changing anything in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from google.protobuf.message import DecodeError

from tq.internal.v1 import log_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads import queries
from tq_cluster.errors import DamagedStateError, FatalError, StartError
from tq_cluster.raft import bounds
from tq_cluster.raft.identity import Identity, read_identity
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.members import contradiction
from tq_cluster.raft.membership import members_in
from tq_cluster.raft.overlay import OverlayDisk
from tq_cluster.raft.pysyncobj_core import NO_OP
from tq_cluster.raft.startup import Alignment, align
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage.copying import head_is_deadly
from tq_cluster.storage.directory import Current, peek
from tq_cluster.storage.environment import DATA_FILE, is_short, read_state
from tq_cluster.storage.lock import is_locked
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.storage.settled import undo_unsettled
from tq_cluster.storage.store import QUARANTINED


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
    """The current term in its journal: the highest that it knows of."""
    certain_ms: int = 0
    """Log time of the last decision in its state: what a state holds, a majority had."""
    decided_ms: int = 0
    """Log time of the last decision in its journal, which a majority may not have had."""
    written_at_ms: int = 0
    """When its journal was last written, by its machine's wall clock."""
    cluster_id: str = ""
    members: Mapping[str, str] = field(default_factory=dict)
    """Node id to incarnation, by the last change that its state or its journal holds."""
    fault: str = ""
    """Why it cannot be used. Empty: no fault was found."""
    rebuilds: bool = False
    """Its state alone is damaged: a node on it takes the others' state and keeps its journal."""

    @property
    def starts(self) -> bool:
        """Whether a node would start on it: it has no fault, and its term is possible."""
        if self.fault or self.last is None:
            return False
        return bounds.flaw_in_log(self.term, self.last.term) is None

    @property
    def node_id(self) -> str:
        return self.identity.node_id if self.identity is not None else "?"


def inspect(path: Path) -> Survivor:
    """Inspect a data directory; the result says what is wrong with it."""
    try:
        if not path.is_dir():
            return Survivor(path=path, fault="is no directory")
        if is_locked(path / "node.lock"):
            return Survivor(path=path, fault="is in use: its node still runs")
        identity = read_identity(path)
        if identity is None:
            return Survivor(path=path, fault="holds no identity: no node was ever on it")
        try:
            return _inspected(path, identity)
        except (DamagedStateError, CorruptRowError) as error:
            # Report, too, whether a node on it, beside enough others, would rebuild its state.
            journal = Journal(OverlayDisk(path / "journal"), InlineSyncer(), on_fatal=_raise)
            return Survivor(
                path=path, identity=identity, fault=str(error), rebuilds=bool(len(journal))
            )
    except (StartError, FatalError) as error:
        return Survivor(path=path, fault=str(error))
    except OSError as error:
        return Survivor(path=path, fault=f"cannot be read: {error}")


def current_state(path: Path) -> Current:
    """Find the state of a data directory; DamagedStateError if damage was found in it before."""
    current = peek(path)
    if (current.path / QUARANTINED).exists():
        raise DamagedStateError(f"the state in {current.path} was found to be damaged")
    return current


def aligned_journal(path: Path, applied: AppliedAt) -> tuple[Journal, Alignment]:
    """Open the journal of a data directory for reading only, in line with its state."""
    journal = Journal(OverlayDisk(path / "journal"), InlineSyncer(), on_fatal=_raise)
    return journal, align(journal, applied, current_state(path).installed)


def _inspected(path: Path, identity: Identity) -> Survivor:
    applied, cluster_id, named, certain_ms = _head_of(current_state(path).path)
    decided_ms = certain_ms
    journal, alignment = aligned_journal(path, applied)
    fault = ""
    if alignment is Alignment.REBUILD:
        fault = "its state ends before its journal begins: it was waiting for the others' state"
    if cluster_id and (why := contradiction(identity, (cluster_id, named))):
        fault = f"it holds what does not belong together: {why}"
    last_index = journal.last_index
    last_term = journal.term_at(last_index)
    assert last_term is not None
    beyond = range(max(applied.index, journal.first_index) + 1, last_index + 1)
    changes = (members_in(journal.entry(index)[0]) for index in reversed(beyond))
    members = next((each for each in changes if each), named)
    for index in reversed(beyond):
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
        cluster_id=cluster_id or identity.cluster_id or "",
        members=members,
        fault=fault,
    )


_Head = tuple[AppliedAt, str, Mapping[str, str], int]
"""How far a state goes, its cluster, its members, and the log time of its last decision."""


def _head_of(folder: Path) -> _Head:
    """Read the state in its directory; if its newest commit is torn, the state before that one."""
    try:
        return _head(folder / DATA_FILE)
    except (DamagedStateError, CorruptRowError) as damage:
        with TemporaryDirectory(prefix="tq-cluster-") as scratch:
            copy = Path(scratch) / DATA_FILE
            shutil.copyfile(folder / DATA_FILE, copy)
            if undo_unsettled(folder, copy):
                with suppress(DamagedStateError, CorruptRowError):
                    return _head(copy)
        raise damage from None


def _head(state: Path) -> _Head:
    _require_readable(state)
    with read_state(state) as view:
        cluster_id, members = queries.membership(view) or ("", {})
        return view.applied, cluster_id, members, int(queries.log_time(view))


def _require_readable(state: Path) -> None:
    """Have another process read a state first: a damaged or truncated one can end its reader."""
    if head_is_deadly(state):
        what = "was cut short" if is_short(state) else "is damaged"
        raise DamagedStateError(f"the state in {state.parent} {what}: reading it ends the process")


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
