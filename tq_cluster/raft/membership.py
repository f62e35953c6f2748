"""Which disks belong to the cluster: by the state, and by entries that only the log holds so far.

An entry that replaces a member binds a node from the moment the node holds it. From then on the
node has no connection to the replaced disk, so no vote or acknowledgement of that disk counts:
neither for the entry itself nor for later ones. A node admits the new disk only once the entry is
applied. So a majority of the *other* members holds the entry before the new disk acknowledges or
votes, and those never count the old one again: no two quorums can form around one name.

A node that is behind also learns of the entry from its peers: an entry that any of them has applied
is settled. Otherwise it could not follow a leader on the new disk, if it can learn of the entry
from that leader alone. It believes only peers whose disks it knows, and none that it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tq.internal.v1 import log_pb2
from tq_cluster.raft.identity import MemberList
from tq_cluster.raft.journal_door import LoggedEntry, LogJournal

Members = Mapping[str, str]
"""Node id to incarnation."""

_FIRST_BYTE: Final = (log_pb2.Entry.MEMBERS_FIELD_NUMBER << 3 | 2).to_bytes(1, "big")


def marked(entry: bytes, members: Members) -> bytes:
    """Mark an entry as a change of the members, recognizable by its first byte."""
    change = log_pb2.MemberChange(incarnations=dict(sorted(members.items())))
    head = log_pb2.Entry(members=change).SerializeToString(deterministic=True)
    return head + entry


def members_in(entry: bytes) -> Members | None:
    """The members from this entry on; None if it does not change them, as most do not."""
    if not entry.startswith(_FIRST_BYTE):
        return None
    return dict(log_pb2.Entry.FromString(entry).members.incarnations)


class MemberDisks:
    """One node's knowledge of the members' disks."""

    def __init__(
        self,
        journal: LogJournal,
        applied_index: Callable[[], int],
        membership: Callable[[], tuple[str, Members] | None],
        recorded: Callable[[], MemberList | None] = lambda: None,
    ) -> None:
        """``membership``: the cluster's id and its members, by the state.

        ``recorded``: the members by the identity, used while the state does not name them or is
        behind.
        """
        self._journal = journal
        self._applied_index = applied_index
        self._membership = membership
        self._recorded = recorded
        self._pending: list[tuple[int, int, Members]] = []
        self._to_announce: int | None = None
        """The last change whose effect on the state was not announced to the peers yet."""
        self._told: tuple[int, Members] = (0, {})
        """The applied index and the members, by the state of the peer that had applied most."""
        first = max(applied_index() + 1, journal.first_index + 1)
        self.note(journal.entry(index) for index in range(first, journal.last_index + 1))

    def note(self, entries: Iterable[LoggedEntry]) -> list[str]:
        """Entries were added to the log; return the members whose disks they replace."""
        replaced: list[str] = []
        for entry, index, term in entries:
            members = members_in(entry)
            if members is not None:
                known = self.members() or {}
                replaced += [name for name in members if members[name] != known.get(name)]
                self._pending.append((index, term, members))
                self._to_announce = index
        return replaced

    def has_news(self) -> bool:
        """Whether the state names other members than at the last call."""
        if self._to_announce is None or self._applied_index() < self._to_announce:
            return False
        self._to_announce = None
        return True

    def told(self, index: int, members: Members) -> None:
        """A peer of this cluster has applied the entry ``index``; its state names ``members``."""
        if members and index > self._told[0]:
            self._told = (index, dict(members))

    def members(self) -> Members | None:
        """The members by the last change that this node knows of."""
        pending = self._unsettled()
        return pending[-1] if pending else self._settled()[1]

    def applied(self) -> Members | None:
        """The members by the state."""
        return self._members()

    def _members(self) -> Members | None:
        membership = self._membership()
        return None if membership is None else membership[1]

    @property
    def said(self) -> bool:
        """Whether a state names the members: this node's, or a peer's."""
        return self._members() is not None or bool(self._told[1])

    def applied_index(self) -> int:
        """The last entry in the state."""
        return self._applied_index()

    def _settled(self) -> tuple[int, Members | None]:
        """The members by what is known to be committed, and the entry as of which they hold."""
        applied_index, members = self._applied_index(), self._members()
        recorded = self._recorded()
        known = (applied_index, members)
        if recorded is not None and (members is None or recorded.index > applied_index):
            known = (max(recorded.index, applied_index), recorded.incarnations)
        return self._told if self._told[0] > known[0] else known

    def belongs(
        self, name: str, incarnation: str, claimed: tuple[int, Members] | None = None
    ) -> bool | None:
        """Whether that disk is the member's, by the settled members and by all changes in the log.

        None: no members are known yet. ``claimed`` is what the peer says it has applied: it counts
        for this answer alone.
        """
        index, settled = self._settled()
        pending = self._unsettled()
        if claimed is not None and claimed[0] > index:
            index, settled = claimed
            pending = [members for at, _, members in self._pending if at > index]
        if settled is None:
            return None
        return all(members.get(name) == incarnation for members in (settled, *pending))

    def _unsettled(self) -> list[Members]:
        """The changes in the log that no node is known to have applied."""
        settled_index = self._settled()[0]
        self._pending = [
            each
            for each in self._pending
            if each[0] > settled_index and self._journal.term_at(each[0]) == each[1]
        ]
        return [members for _, _, members in self._pending]
