"""Whose data a directory holds, so that no node ever serves another's.

identity      cluster id, members, group id, node id, incarnation, format
node.lock     held while the node runs
crash.txt     what a process that failed wrote; empty while all is well
journal/      the log
CURRENT       which state counts
state-<n>/    the state, and which of its commits is whole
snapshots/    on their way in or out
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from tq_cluster.errors import StartError
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.storage.crash import CRASH_FILE
from tq_cluster.storage.environment import EMPTY
from tq_cluster.storage.files import make_folder, read_record, write_record
from tq_cluster.storage.lock import DirectoryLock

FORMAT: Final = 1
FILE: Final = "identity"
_IDS_SHOWN_MAX: Final = 9
_ID_SHOWN_MAX: Final = 64
_NOT_DATA = frozenset({f"{FILE}.partial", "node.lock", CRASH_FILE, "lost+found"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a node's log and state begin with: nothing, or what a backup held."""

    backup_id: str = ""
    index: int = EMPTY.index
    term: int = EMPTY.term

    def __str__(self) -> str:
        """Return the form in which nodes compare it. Empty: nothing."""
        return f"backup {self.backup_id} at entry {self.index}" if self.backup_id else ""

    def is_all_of(self, journal: LogJournal) -> bool:
        """Whether a node has neither voted nor received an entry since its directory was made."""
        return journal.last_index <= self.index and journal.getCurrentTerm() == self.term


EMPTY_ORIGIN: Final = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """The members of a cluster, from which its majorities are counted."""

    incarnations: Mapping[str, str]
    """Node id to incarnation."""
    index: int = 0
    """The entry of the log as of which the list holds; 0: from the forming of the cluster on."""

    def __str__(self) -> str:
        return shown(self.incarnations)


def shown(node_ids: Iterable[str]) -> str:
    """Write members' ids for people, in order. An unadmitted node's list may be long."""
    names = [name[:_ID_SHOWN_MAX] for name in sorted(node_ids)]
    more = len(names) - _IDS_SHOWN_MAX
    return ", ".join(names[:_IDS_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose data a directory holds, by its identity file."""

    node_id: str
    group_id: int
    incarnation: str
    """Drawn when the directory was empty: a node that lost its disk has another one."""
    cluster_id: str | None = None
    """None: it belongs to no cluster yet."""
    members: MemberList | None = None
    """Written with the cluster's id. None beside an id: an earlier version wrote none."""
    origin: Origin = EMPTY_ORIGIN
    newcomer: bool = False
    """It joined an existing cluster: it votes once its state names it."""


def data_in(path: Path) -> list[str]:
    """Return the names in a directory that may be a node's data, or part of it."""
    return sorted({entry.name for entry in path.iterdir()} - _NOT_DATA)


def read_identity(path: Path) -> Identity | None:
    """Return whose data the directory at ``path`` holds; None if no node has claimed it."""
    fields = read_record(path / FILE, format_known=FORMAT)
    if fields is None:
        return None
    return Identity(
        node_id=fields["node_id"],
        group_id=fields["group_id"],
        incarnation=fields["incarnation"],
        cluster_id=fields["cluster_id"],
        # A directory of the first version has neither members nor an origin.
        members=MemberList(**fields["members"]) if fields.get("members") else None,
        origin=Origin(**fields.get("origin", {})),
        newcomer=fields.get("newcomer", False),
    )


def write_identity(path: Path, identity: Identity) -> None:
    """Record whose data the directory at ``path`` holds. Durable on return."""
    write_record(path / FILE, {"format": FORMAT, **asdict(identity)})


def require_owner(path: Path, identity: Identity, node_id: str, group_id: int = 0) -> None:
    """Refuse a directory that is another node's."""
    if identity.node_id != node_id:
        raise StartError(
            f"{path} belongs to node {identity.node_id} of cluster {identity.cluster_id}, and this"
            f" is node {node_id}: give it a data directory of its own"
        )
    if identity.group_id != group_id:
        raise StartError(f"{path} belongs to group {identity.group_id}, not to {group_id}")


def new_incarnation(draw: random.Random) -> str:
    """Draw the incarnation of a new directory."""
    return f"{draw.getrandbits(64):016x}"


class DataDirectory:
    """One node's data directory, locked against other processes."""

    def __init__(self, path: Path, *, node_id: str, draw: random.Random, group_id: int = 0) -> None:
        """Open the directory, or claim an empty one for a new incarnation of the node.

        StartError when it is in use, belongs to another node, or holds data but no identity.
        """
        make_folder(path)
        self.path = path
        self._lock = DirectoryLock(path / "node.lock")
        try:
            self.identity = read_identity(path) or self._claim(node_id, group_id, draw)
            require_owner(path, self.identity, node_id, group_id)
        except BaseException:
            self._lock.release()
            raise

    @property
    def node_id(self) -> str:
        return self.identity.node_id

    @property
    def group_id(self) -> int:
        return self.identity.group_id

    @property
    def incarnation(self) -> str:
        """Drawn when the directory was empty: a node that lost its disk has another one."""
        return self.identity.incarnation

    @property
    def cluster_id(self) -> str | None:
        """None: it belongs to no cluster yet."""
        return self.identity.cluster_id

    @property
    def members(self) -> MemberList | None:
        """Who the cluster's members are; None: not recorded yet."""
        return self.identity.members

    @property
    def origin(self) -> Origin:
        """What its log and state begin with."""
        return self.identity.origin

    @property
    def journal_path(self) -> Path:
        return self.path / "journal"

    @property
    def newcomer(self) -> bool:
        """It joined an existing cluster: it votes once its state names it."""
        return self.identity.newcomer

    def join(self, cluster_id: str, members: MemberList, *, newcomer: bool = False) -> None:
        """Belong to that cluster, of those members, from now on. Durable on return."""
        if self.cluster_id not in (None, cluster_id):
            raise StartError(
                f"{self.path} belongs to node {self.node_id} of cluster {self.cluster_id}, and"
                f" cannot join cluster {cluster_id}"
            )
        self._write(
            replace(self.identity, cluster_id=cluster_id, members=members, newcomer=newcomer)
        )

    def record(self, members: MemberList) -> None:
        """Note who the members of its cluster are now. Durable on return."""
        self._write(replace(self.identity, members=members))

    def release(self) -> None:
        """Let another process use it."""
        self._lock.release()

    def _write(self, identity: Identity) -> None:
        write_identity(self.path, identity)
        self.identity = identity

    def _claim(self, node_id: str, group_id: int, draw: random.Random) -> Identity:
        if found := data_in(self.path):
            raise StartError(
                f"{self.path} holds {', '.join(found[:3])} but no identity file, as a restore"
                f" leaves it that was cut short: empty it and restore again, or give {node_id} the"
                " data directory that it had"
            )
        self._write(Identity(node_id=node_id, group_id=group_id, incarnation=new_incarnation(draw)))
        return self.identity
