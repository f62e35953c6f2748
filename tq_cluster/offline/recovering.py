"""Makes a backup of a disk that outlived its cluster: the beginning of a new cluster.

Entries in its journal beyond its state are applied, committed or not: an entry that a majority
acknowledged may exist on this disk alone. The result shows which tasks ran; whether they ended is
not known, so none of them runs again by itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tq_cluster.core.model.operations import Caller, EndLeases, PauseQueues
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads import queries
from tq_cluster.core.rows.scope import Scope
from tq_cluster.errors import FatalError, StartError
from tq_cluster.raft.inspection import Survivor, aligned_journal, current_state
from tq_cluster.raft.pysyncobj_core import NO_OP
from tq_cluster.storage.backup import Maker, make_backup, write_backup
from tq_cluster.storage.copying import find_damage
from tq_cluster.storage.environment import DATA_FILE, open_environment
from tq_cluster.storage.files import sync_folder
from tq_cluster.storage.lock import kept_out
from tq_cluster.storage.offline import decide_offline
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.storage.settled import undo_unsettled
from tq_cluster.storage.snapshot import SnapshotError
from tq_cluster.storage.store import Store

ROOM_SPARED_BYTES: Final = 64 * 2**20
SLICE_TASKS: Final = 1_000
SLICE_ENTRIES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The result of recovering a disk."""

    applied: AppliedAt
    uncertain: Sequence[str]
    """Ids of the tasks that ran, now dead letters."""


def judged(survivors: Sequence[Survivor]) -> list[Survivor]:
    """Mark the disks that do not belong to their cluster, by the membership of the newest disk.

    A disk that was replaced while it was away still takes itself for a member's.
    """
    own = [_disowned(each, each.members) for each in survivors]
    best: dict[str, Survivor] = {}
    for each in sorted((each for each in own if not each.fault), key=_freshness):
        best[each.cluster_id] = each
    return [
        _disowned(each, best[each.cluster_id].members) if each.cluster_id in best else each
        for each in own
    ]


def _disowned(survivor: Survivor, members: Mapping[str, str]) -> Survivor:
    identity = survivor.identity
    if survivor.fault or identity is None:
        return survivor
    if members.get(identity.node_id) == identity.incarnation:
        return survivor
    why = (
        f"the cluster knows another disk as {identity.node_id}'s: this one was replaced"
        if identity.node_id in members
        else f"nothing in it names {identity.node_id} as a member of a cluster"
    )
    return replace(survivor, fault=why)


def choose(survivors: Sequence[Survivor]) -> Survivor:
    """Return the disk that an election would prefer: no other can hold more that is certain."""
    usable = [each for each in survivors if not each.fault]
    if not usable:
        raise StartError(
            "none of these disks can be used: restore the last backup, and keep these"
            " to be looked at"
        )
    clusters = sorted({each.cluster_id for each in usable})
    if len(clusters) > 1:
        raise StartError(f"these disks are of different clusters: {', '.join(clusters)}")
    return max(usable, key=_freshness)


def _freshness(survivor: Survivor) -> tuple[int, int]:
    assert survivor.last is not None
    return survivor.last.term, survivor.last.index


def recover(survivor: Survivor, target: Path, maker: Maker, *, pause_queues: bool) -> Recovered:
    """Write a backup of what ``survivor`` holds to ``target``; its disk is not changed.

    StartError says what is damaged, or that room is lacking; nothing is left behind then.
    """
    work = target.with_name(f"{target.name}.recovering")
    try:
        work.mkdir()
    except FileExistsError:
        raise StartError(
            f"{work} exists: another recovery is under way, or one was cut off; if none is, remove"
            " it and begin again"
        ) from None
    except OSError as error:
        raise StartError(f"{work} cannot be made: {error.strerror}") from error
    try:
        with kept_out(survivor.path / "node.lock"):
            _require_room(survivor, work)
            return _recovered(survivor, work, target, maker, pause_queues=pause_queues)
    except (FatalError, SnapshotError, OSError) as error:
        raise StartError(
            f"{survivor.path} cannot be recovered from: {error}; nothing was changed. If it is the"
            " disk that is at fault, leave it away and recover from another, or restore the last"
            " backup"
        ) from error
    finally:
        shutil.rmtree(work)


def _recovered(
    survivor: Survivor, work: Path, target: Path, maker: Maker, *, pause_queues: bool
) -> Recovered:
    store = Store(_copied(survivor, work))
    try:
        _replay(survivor, store)
        uncertain = _quarantine(store, maker.made_at_ms)
        if pause_queues:
            _pause(store, maker.made_at_ms)
        store.commit()
        backup = make_backup(store, work, maker)
        try:
            write_backup(backup, work / "backup")
        finally:
            backup.close()
        (work / "backup").rename(target)
        sync_folder(target.parent)
        return Recovered(applied=store.applied, uncertain=uncertain)
    finally:
        store.close()


def _copied(survivor: Survivor, work: Path) -> Path:
    state = work / "state"
    state.mkdir()
    source = current_state(survivor.path).path
    shutil.copyfile(source / DATA_FILE, state / DATA_FILE)
    undo_unsettled(source, state / DATA_FILE)
    # It restores the length of a file that was cut short: the missing part then reads as damage.
    open_environment(state).close()
    if damage := find_damage(state / DATA_FILE):
        raise CorruptRowError(damage)
    return state


def _replay(survivor: Survivor, store: Store) -> None:
    journal, _ = aligned_journal(survivor.path, store.applied)
    for index in range(store.applied.index + 1, journal.last_index + 1):
        command, _, term = journal.entry(index)
        store.apply(index, term, b"" if command == NO_OP else command)
        if index % SLICE_ENTRIES == 0:
            store.commit()


def _quarantine(store: Store, now_ms: int) -> list[str]:
    """Make dead letters of the tasks that ran, in every namespace; return their ids."""
    uncertain: list[str] = []
    for namespace in queries.namespaces_in(store.view()):
        caller = Caller(namespace=namespace)
        ending = EndLeases(quarantine=True, tasks_max=SLICE_TASKS, caller=caller)
        more = True
        while more:
            running, _ = queries.running_leases(Scope.of(store.view(), namespace), b"", SLICE_TASKS)
            uncertain += [lease.task_id for lease in running]
            more = decide_offline(store, ending, _now_ms(store, now_ms)).more
            store.commit()
    return uncertain


def _pause(store: Store, now_ms: int) -> None:
    """Pause every queue of every namespace."""
    for namespace in queries.namespaces_in(store.view()):
        pausing = PauseQueues(caller=Caller(namespace=namespace))
        decide_offline(store, pausing, _now_ms(store, now_ms))


def _now_ms(store: Store, wall_ms: int) -> int:
    """Return the present, so that dead letters are kept from now on; log time never goes back."""
    return max(wall_ms, queries.log_time(store.view()))


def _require_room(survivor: Survivor, folder: Path) -> None:
    state = current_state(survivor.path).path / DATA_FILE
    # A copy to work on, a snapshot of that, and the file itself.
    needed_bytes = 3 * state.stat().st_blocks * 512 + ROOM_SPARED_BYTES
    free = os.statvfs(folder)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < needed_bytes:
        raise StartError(
            f"{folder.parent} has {free_bytes >> 20} MiB free; to recover this disk may take"
            f" {needed_bytes >> 20} MiB"
        )
