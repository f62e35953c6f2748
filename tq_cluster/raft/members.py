"""The members that a majority is counted from: those in the identity record, never in a file.

The record is written together with the cluster's id, before the first vote. While there is no
record, the configuration file names the members to form a cluster with; afterwards it only gives
addresses. Record and state are compared whenever a state becomes readable: at start, as entries are
applied, and in a snapshot before it takes the state's place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Protocol

from tq.internal.v1 import log_pb2, state_pb2
from tq_cluster.core.rows import tables
from tq_cluster.errors import StartError
from tq_cluster.raft.formation import Membership, NodeIdentity
from tq_cluster.raft.identity import MemberList, read_identity, require_owner, shown
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.pysyncobj_core import NO_OP
from tq_cluster.storage.rows import unseal

_REPLACE: Final = (
    "to put a disk in the place of a lost one there is tq-admin replace-node; a cluster of other"
    " members is made by restoring a backup"
)


def require_may_form(cluster_id: str | None, configured: Collection[str], *, single: bool) -> None:
    """Refuse to form a cluster of one without ``single``: it may be a mistake in a file."""
    if cluster_id is None and len(configured) == 1 and not single:
        raise StartError(
            f"members names {shown(configured)} alone: a cluster of one loses everything with its"
            " disk, and takes no second member in later. Name all members; if one is meant, say"
            " single: true"
        )


def counted(recorded: MemberList | None, configured: Collection[str]) -> tuple[str, ...]:
    """Return the ids of which a majority is counted, in order.

    StartError if the file names other members than the record: its author expects another cluster
    than the existing one.
    """
    if recorded is None:
        return tuple(sorted(configured))
    if set(configured) != set(recorded.incarnations):
        raise StartError(
            f"the configuration names the members {shown(configured)}, but the cluster of this data"
            f" directory is of {recorded}: editing a file changes no members. Name exactly those,"
            f" at whichever addresses; {_REPLACE}"
        )
    return tuple(sorted(recorded.incarnations))


class Recorded(Protocol):
    """What a data directory says of itself."""

    @property
    def node_id(self) -> str: ...

    @property
    def cluster_id(self) -> str | None: ...

    @property
    def members(self) -> MemberList | None: ...


def check_file(path: Path, node_id: str, configured: Collection[str], *, single: bool) -> None:
    """Refuse a file with which a node would not start on the data directory; changes nothing."""
    identity = read_identity(path)
    if identity is not None:
        require_owner(path, identity, node_id)
    if identity is None or identity.members is None:
        cluster_id = None if identity is None else identity.cluster_id
        require_may_form(cluster_id, configured, single=single)
    else:
        counted(identity.members, configured)


def contradiction(identity: Recorded, membership: Membership | None) -> str:
    """Say why a state cannot be this node's; empty: it can, or it names no members yet."""
    if membership is None:
        return ""
    cluster_id, members = membership
    if cluster_id != identity.cluster_id:
        return (
            f"the state is of cluster {cluster_id}, {identity.node_id} belongs to"
            f" {identity.cluster_id or 'none'}"
        )
    recorded = identity.members
    if recorded is not None and recorded.incarnations.keys() != members.keys():
        return (
            f"the state names the members {shown(members)}, the identity of {identity.node_id}"
            f" {recorded}"
        )
    return ""


def settle(identity: NodeIdentity, membership: Membership | None, applied_index: int) -> str:
    """Update the record to a state that ends with that entry; say what contradicts it.

    The record is written if it has fallen behind, because a member's disk was replaced, or if there
    is none yet, as in directories of the first version.
    """
    why = contradiction(identity, membership)
    if why or membership is None:
        return why
    _, members = membership
    recorded = identity.members
    if recorded is not None and recorded.incarnations == members:
        return ""
    if recorded is None or recorded.index < applied_index:
        identity.record(MemberList(incarnations=dict(members), index=applied_index))
    elif recorded.index == applied_index:
        return (
            f"as of entry {applied_index} the state names the disks {_disks(members)}, the identity"
            f" of {identity.node_id} {_disks(recorded.incarnations)}"
        )
    return ""


def settle_from_journal(identity: NodeIdentity, journal: LogJournal, applied_index: int) -> None:
    """Take the members from the entry that formed the cluster, which no state holds yet."""
    for index in range(max(applied_index, journal.first_index) + 1, journal.last_index + 1):
        membership = _formed_by(journal.entry(index)[0])
        if membership is not None and not contradiction(identity, membership):
            identity.record(MemberList(incarnations=membership[1]))
            return


def _formed_by(command: bytes) -> Membership | None:
    if not command or command == NO_OP:
        return None
    for table in log_pb2.Entry.FromString(command).tables:
        if table.table == tables.META and tables.CLUSTER_KEY in table.put_keys:
            sealed = table.put_values[list(table.put_keys).index(tables.CLUSTER_KEY)]
            row = state_pb2.ClusterRow.FromString(unseal(tables.META, tables.CLUSTER_KEY, sealed))
            return row.cluster_id, {each.node_id: each.incarnation for each in row.members}
    return None


def _disks(members: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {disk}" for name, disk in sorted(members.items()))
