"""Makes a data directory of a backup: one member of a cluster that is yet to be formed.

Every member is made of the same file, each separately: changes on the way depend only on the file.
The members form a cluster like empty nodes do, once all have answered and have the same origin
(formation.py); its id, its incarnations and its first token are drawn then.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from tq.internal.v1 import backup_pb2
from tq_cluster.core.model.operations import Caller, EndLeases, LeaveCluster
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads import queries
from tq_cluster.errors import FatalError, StartError
from tq_cluster.raft import bounds
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.identity import Identity, Origin, data_in, new_incarnation, write_identity
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.records import Vote
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage.backup import BackupError, check_extracted, extract_state, read_header
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.environment import DATA_FILE
from tq_cluster.storage.files import make_folder
from tq_cluster.storage.lock import DirectoryLock
from tq_cluster.storage.offline import decide_offline
from tq_cluster.storage.store import Store

ROOM_SPARED_BYTES: Final = 64 * 2**20
SLICE_TASKS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The result of restoring a backup."""

    header: backup_pb2.BackupHeader
    applied: AppliedAt
    """The first position of the new log."""
    incarnation: str


def restore_data(
    backup: Path, path: Path, *, node_id: str, draw: random.Random, group_id: int = 0
) -> Restored:
    """Make the data directory of ``node_id`` of a backup.

    Raises BackupError for a damaged file, and StartError if ``path`` is not empty or lacks room;
    nothing is left behind then. The identity is written last: a directory that was cut short has
    none, and no node starts on it.
    """
    header = read_header(backup)
    if not header.cluster_id:
        raise BackupError(f"{backup} holds the state of no cluster: there is nothing to restore")
    make_folder(path)
    lock = DirectoryLock(path / "node.lock")
    try:
        _require_empty(path)
        _require_room(path, header.state_bytes)
        try:
            applied = _make(backup, path)
            incarnation = new_incarnation(draw)
            origin = Origin(backup_id=header.backup_id, index=applied.index, term=applied.term)
            identity = Identity(
                node_id=node_id, group_id=group_id, incarnation=incarnation, origin=origin
            )
            write_identity(path, identity)
        except BaseException:
            _sweep(path)
            raise
    finally:
        lock.release()
    return Restored(header=header, applied=applied, incarnation=incarnation)


def _make(backup: Path, path: Path) -> AppliedAt:
    state = StateDirectory(path).current.path
    header = extract_state(backup, state / DATA_FILE)
    check_extracted(backup, state / DATA_FILE, header)
    store = Store(state)
    try:
        _begin_anew(store, header)
        applied = store.applied
    finally:
        store.close()
    disk = FileDisk(path / "journal")
    try:
        journal = Journal(disk, InlineSyncer(), on_fatal=_raise)
        journal.reset(applied.index, applied.term)
        # The new cluster's terms continue above those of the log that it inherits.
        journal.set_vote(Vote(applied.term, None))
        journal.close()
    finally:
        disk.close()
    return applied


def _begin_anew(store: Store, header: backup_pb2.BackupHeader) -> None:
    """End every lease of the cluster that was backed up, and leave that cluster."""
    if bounds.flaw_in_term(store.applied.term, None) is not None:
        # No node starts in such a term. No entry of the old log is read, so any term will do.
        store.restart_terms(1)
    now_ms = header.log_time_ms
    for namespace in queries.namespaces_in(store.view()):
        caller = Caller(namespace=namespace)
        ending = EndLeases(quarantine=False, tasks_max=SLICE_TASKS, caller=caller)
        while decide_offline(store, ending, now_ms).more:
            store.commit()
    made_at_ms = header.log_time_wall_ms or header.made_at_ms
    decide_offline(store, LeaveCluster(made_at_ms=made_at_ms), now_ms)
    store.commit()


def _require_empty(path: Path) -> None:
    if found := data_in(path):
        raise StartError(
            f"{path} holds {', '.join(found[:3])}: a backup is restored into an empty directory;"
            " move what is there away, or name another data_dir"
        )


def _require_room(path: Path, state_bytes: int) -> None:
    free = os.statvfs(path)
    free_bytes = free.f_bavail * free.f_frsize
    needed_bytes = state_bytes + state_bytes // 4 + ROOM_SPARED_BYTES
    if free_bytes < needed_bytes:
        raise StartError(
            f"{path} has {free_bytes >> 20} MiB free; to restore this backup takes"
            f" {needed_bytes >> 20} MiB"
        )


def _sweep(path: Path) -> None:
    for name in data_in(path):
        found = path / name
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()


def _raise(error: FatalError) -> NoReturn:
    raise error
