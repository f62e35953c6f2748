"""Bringing journal and state together at start: the journal leads, the state follows."""

from __future__ import annotations

import enum
import logging
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads import queries
from tq_cluster.errors import DamagedStateError, FatalError, StartError
from tq_cluster.raft import bounds
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.identity import DataDirectory
from tq_cluster.raft.journal import DEFAULT_LIMITS, Journal, JournalLimits
from tq_cluster.raft.members import (
    check_file,
    counted,
    require_may_form,
    settle,
    settle_from_journal,
)
from tq_cluster.raft.records import FIRST_WRITE_BYTES
from tq_cluster.raft.syncer import Syncer
from tq_cluster.storage import crash
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.environment import EMPTY
from tq_cluster.storage.store import Store
from tq_common.limits import TERM_MAX

_logger = logging.getLogger(__name__)


class Alignment(enum.Enum):
    """How a node gets from what it has to the end of the log."""

    REPLAY = "replay"
    """Its journal goes on where its state ends."""
    REBUILD = "rebuild"
    """Its journal begins after its state: it applies nothing until a peer has sent a snapshot."""


def align(journal: Journal, applied: AppliedAt, installed: AppliedAt | None) -> Alignment:
    """Bring the journal in line with a state that ends at ``applied``, or refuse to start.

    ``installed`` is the mark that the state is a snapshot which the journal may not know yet: the
    one case in which the journal gives way. A new node's journal gets the entry that every log
    begins with.
    """
    term = journal.term_at(applied.index)
    if term == applied.term:
        return Alignment.REPLAY
    if installed == applied:
        journal.reset(applied.index, applied.term)
        return Alignment.REPLAY
    if not len(journal):
        if applied != EMPTY:
            raise StartError(f"the state ends at {applied}, but the journal is empty; {_ADVICE}")
        journal.add(b"", EMPTY.index, EMPTY.term)
        journal.sync_now()
        return Alignment.REPLAY
    if applied.index < journal.first_index:
        return Alignment.REBUILD
    if term is None:
        raise StartError(
            f"the state ends at {applied}, but the journal at entry {journal.last_index}; {_ADVICE}"
        )
    raise StartError(
        f"the state ends at {applied}, but the journal's entry {applied.index} is of term {term};"
        f" {_ADVICE}"
    )


_ADVICE = (
    "one of the two is not this node's own, or has lost its end: restore the node from its peers"
    " by moving its data directory away and starting it empty"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeData:
    """All that a node has on disk, open and consistent."""

    directory: DataDirectory
    disk: FileDisk
    journal: Journal
    states: StateDirectory
    store: Store
    alignment: Alignment
    set_aside: bool
    """The state was damaged and was replaced with an empty one."""


def open_data(
    path: Path,
    *,
    node_id: str,
    draw: random.Random,
    syncer: Syncer,
    on_fatal: Callable[[FatalError], None],
    members: Collection[str] = (),
    single: bool = False,
    limits: JournalLimits = DEFAULT_LIMITS,
    relief: Callable[[], bool] = lambda: False,
    record_crashes: bool = False,
) -> NodeData:
    """Open a node's data directory, or make a new one; StartError when it cannot be served.

    ``members`` are those in the configuration file; if empty, the recorded ones count. A cluster of
    one is formed only if ``single`` is set.

    ``relief`` is asked to make room when the disk is full, from the thread that writes the journal.
    With ``record_crashes``, which is for a process that serves this node and nothing else, a signal
    that ends it is recorded for the next one.
    """
    with _usable(path), ExitStack() as undo:
        if members:
            check_file(path, node_id, members, single=single)
        directory = DataDirectory(path, node_id=node_id, draw=draw)
        undo.callback(directory.release)
        disk = FileDisk(directory.journal_path, relief)
        undo.callback(disk.close)
        _require_journal(directory, disk)
        states = StateDirectory(path)
        _look_into_crash(path, states.current.path)
        if record_crashes:
            crash.record_crashes(path)
        store, set_aside = _open_state(states)
        undo.callback(store.close)
        journal = Journal(disk, syncer, on_fatal=on_fatal, limits=limits)
        _require_reachable_term(directory, journal)
        alignment = align(journal, store.applied, states.current.installed)
        _settle_members(directory, store, journal)
        if members:
            counted(directory.members, members)
            if directory.members is None:
                require_may_form(None, members, single=single)
        states.clear_mark()
        undo.pop_all()
    return NodeData(
        directory=directory,
        disk=disk,
        journal=journal,
        states=states,
        store=store,
        alignment=alignment,
        set_aside=set_aside,
    )


def _settle_members(directory: DataDirectory, store: Store, journal: Journal) -> None:
    """Compare identity and state, and record the member list if it is not recorded yet."""
    applied = store.applied
    if why := settle(directory, queries.membership(store.view()), applied.index):
        raise StartError(f"{directory.path} holds what does not belong together: {why}; {_ADVICE}")
    if directory.cluster_id is not None and directory.members is None:
        settle_from_journal(directory, journal, applied.index)


def _look_into_crash(path: Path, state: Path) -> None:
    """If a signal or a disk ended the last process here, check the state for damage."""
    told = crash.read_crash(path)
    if not told:
        return
    try:
        damage = crash.quarantine_if_damaged(state)
    except OSError as error:
        damage = f"not known: {error}"
    _logger.warning("the last run failed", extra={"why": told, "damage": damage or "none"})
    crash.forget_crash(path)


def _open_state(states: StateDirectory) -> tuple[Store, bool]:
    """Open the state; replace a damaged one with an empty one, which the log fills again.

    The journal holds what this node has acknowledged and its vote. Only an installed snapshot that
    the journal does not know yet vouches for itself: if it is damaged, raise DamagedStateError.
    """
    try:
        return Store(states.current.path), False
    except DamagedStateError as error:
        if states.current.installed is not None:
            raise
        kept = states.set_aside()
        _logger.warning(
            "the state is damaged and will be rebuilt", extra={"why": str(error), "kept": str(kept)}
        )
        return Store(states.current.path), True


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn an OSError into a StartError that names the directory or file and the reason."""
    try:
        yield
    except OSError as error:
        raise StartError(
            f"{error.filename or path} cannot be used: {error.strerror or error}: give this node a"
            " data directory that it can read and write"
        ) from error


def _require_reachable_term(directory: DataDirectory, journal: Journal) -> None:
    """Refuse a term that no election can have reached: it was written because a peer sent it."""
    term, last_index = journal.getCurrentTerm(), journal.last_index
    last_term = journal.term_at(last_index) if len(journal) else 0
    flaw = bounds.flaw_in_log(term, last_term or 0)
    if flaw is None or (directory.newcomer and term < TERM_MAX):
        return
    raise StartError(
        f"{directory.path} cannot be used: its journal says what no cluster comes to: {flaw}, as of"
        f" its last entry, {last_index}. An earlier version believed it of whoever reached its raft"
        " port. If a majority of the other brokers runs, move this directory away, start the broker"
        f" on an empty one, and say tq-admin replace-node {directory.node_id}. If too many brokers"
        " say this, keep all directories, make a backup of them with tq-cluster recover, and"
        " restore it on every broker (docs/recovery.md, 'A term out of bounds')"
    )


def _require_journal(directory: DataDirectory, disk: FileDisk) -> None:
    # A member's journal holds at least the first entry. Without it the node forgot its votes.
    held_bytes = sum(disk.size(name) for name in disk.names())
    if directory.cluster_id is not None and held_bytes <= FIRST_WRITE_BYTES:
        raise StartError(
            f"{directory.path} belongs to node {directory.node_id} of cluster"
            f" {directory.cluster_id}, but its journal is missing; {_ADVICE}"
        )
