"""How a cluster forms, and which nodes belong to it.

Empty nodes form a cluster only when every configured member says that it is empty: a node that lost
its disk can never start a second cluster beside the one that knows it. The member with the lowest
id draws the cluster's id and lists the members' disks. Each member writes both to disk before it
says so, and begins elections when it sees that all have. From then on majorities are counted from
the recorded list (see ``members``), not from the configuration file.

In an existing cluster an empty node is unadmitted: members refuse it until an entry names its disk
as the member's of that name (see ``membership``). It then joins as a newcomer: it takes entries
and acknowledges them, and votes once its own state names it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tq.internal.v1 import peer_pb2
from tq_cluster.clock import Clock
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.raft import bounds, frames
from tq_cluster.raft.copies import Copies
from tq_cluster.raft.identity import MemberList, Origin
from tq_cluster.raft.membership import MemberDisks
from tq_cluster.telemetry.sparing import Sparing

_logger = logging.getLogger(__name__)

Membership = tuple[str, Mapping[str, str]]
"""A cluster's id, and each member's incarnation."""

STRANGER_S = 5.0
"""How long an unadmitted node counts as present after it last introduced itself. It does so about
every second."""
NOTE_S = 10.0
"""How often at most a new reason to refuse a peer is logged: an impostor can cause any number."""
STRANGERS_KEPT = 2
"""How many disks are kept for one name: with two, the choice is ambiguous already."""


class NodeIdentity(Protocol):
    """Whose data this node's directory holds."""

    @property
    def node_id(self) -> str: ...

    @property
    def group_id(self) -> int: ...

    @property
    def incarnation(self) -> str: ...

    @property
    def cluster_id(self) -> str | None:
        """None: it belongs to no cluster yet."""

    @property
    def members(self) -> MemberList | None:
        """Who the cluster's members are; None: not recorded yet."""

    @property
    def origin(self) -> Origin:
        """What its log and state begin with."""

    @property
    def newcomer(self) -> bool:
        """It joined an existing cluster: it votes once its state names it."""

    def join(self, cluster_id: str, members: MemberList, *, newcomer: bool = False) -> None:
        """Belong to that cluster, of those members, from now on. Durable on return."""

    def record(self, members: MemberList) -> None:
        """Note who the members of its cluster are now. Durable on return."""


class Formation:
    """One node's part in forming its cluster, and its judgement of which nodes belong to it."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        member_ids: tuple[str, ...],
        pristine: Callable[[], bool],
        member_disks: MemberDisks,
        cluster_version: Callable[[], int],
        clock: Clock,
        draw: random.Random,
        news: Callable[[], None],
    ) -> None:
        """``pristine``: whether the journal holds nothing yet.

        ``cluster_version``: the version in the state. ``news`` is called when this node's Hello has
        changed.
        """
        self._identity = identity
        self._member_ids = member_ids
        self._peer_ids = tuple(name for name in member_ids if name != identity.node_id)
        self._pristine = pristine
        self._member_disks = member_disks
        self._cluster_version = cluster_version
        self._clock = clock
        self._draw = draw
        self._news = news
        self._hellos: dict[str, peer_pb2.Hello] = {}
        self._versions: dict[str, int] = {}
        """Per peer the newest cluster version that it supports, by its Hello."""
        self._copies = Copies(f"{draw.getrandbits(64):016x}")
        self._refusals: dict[str, str] = {}
        self._logged: dict[str, str] = {}
        self._said: dict[str, Sparing] = {}
        self._strangers_said = Sparing(_logger, clock.monotonic_s)
        self._strangers: dict[str, dict[str, float]] = {}
        """Empty disks that introduced themselves under a member's name, and when they last did."""
        self.formed = self._recorded and (not pristine() or not self._peer_ids)
        """The cluster exists and this node belongs to it."""
        self.stranger = False
        """The cluster exists and this node does not belong to it."""

    def begin(self) -> None:
        """Form a cluster of one at once: it waits for no peer."""
        if not self._peer_ids and not self.formed and self._pristine():
            self._join(self._identity.cluster_id or self._drawn_id(), self._seen())
            self._form()

    # ------------------------------------------------------------------ what is said and seen

    def own_hello(self, *, to_member: bool = True) -> peer_pb2.Hello:
        """How this node introduces itself.

        A node that merely listens at a member's address must not learn the other members' disks: it
        could pass for a member with them.
        """
        identity = self._identity
        hello = peer_pb2.Hello(
            format=frames.FORMAT,
            cluster_version=CLUSTER_VERSION,
            cluster_id=identity.cluster_id or "",
            group_id=identity.group_id,
            node_id=identity.node_id,
            incarnation=identity.incarnation,
            # A node that may already stand for election counts as one that has voted.
            pristine=self._pristine() and not self.formed,
            member_ids=self._member_ids,
            wall_ms=self._clock.wall_ms(),
            restored_from=str(identity.origin),
            run=self._copies.own_run,
        )
        if not to_member:
            hello.brief = True
            return hello
        hello.incarnations.update(self._member_disks.applied() or {})
        hello.applied_index = self._member_disks.applied_index()
        hello.barred_runs.extend(self._copies.barred)
        recorded = _as_message(identity.members)
        if recorded is not None:
            hello.recorded.CopyFrom(recorded)
        return hello

    def membership(self) -> Membership | None:
        """The cluster's id and members; None while they are not recorded."""
        identity = self._identity
        if identity.cluster_id is None or identity.members is None:
            return None
        return identity.cluster_id, dict(identity.members.incarnations)

    def common_version(self) -> int | None:
        """The newest cluster version of all members; None while one has not said its own."""
        said = [self._versions.get(name) for name in self._peer_ids]
        known = [version for version in said if version is not None]
        return None if len(known) < len(said) else min([CLUSTER_VERSION, *known])

    def version_of(self, name: str) -> int | None:
        """The newest cluster version that a peer supports, by its Hello; None: it sent none."""
        return self._versions.get(name)

    def strangers(self) -> dict[str, str]:
        """Empty disks that could replace a member's: member's name to incarnation.

        A name that several disks claim is left out: which of them is meant cannot be told.
        """
        since_s = self._clock.monotonic_s() - STRANGER_S
        found = {
            name: [disk for disk, seen_s in disks.items() if seen_s >= since_s]
            for name, disks in self._strangers.items()
        }
        return {name: disks[0] for name, disks in found.items() if len(disks) == 1}

    def _saw_stranger(self, hello: peer_pb2.Hello) -> None:
        now_s = self._clock.monotonic_s()
        seen = self._strangers.setdefault(hello.node_id, {})
        seen[hello.incarnation] = now_s
        if len(seen) > STRANGERS_KEPT:
            del seen[min(seen, key=lambda disk: seen[disk])]

    def may_vote(self) -> bool:
        """Whether this node may vote: a newcomer may once its own state names it.

        Before that it would vote like a node that has forgotten what it acknowledged.
        """
        identity = self._identity
        if not identity.newcomer:
            return True
        members = self._member_disks.applied() or {}
        return members.get(identity.node_id) == identity.incarnation

    def no_longer_welcome(self) -> list[str]:
        """Peers whose disk was replaced, or whose run was barred, since they were admitted."""
        return [
            name
            for name, hello in self._hellos.items()
            if self._member_disks.belongs(name, hello.incarnation) is False
            or self._copies.is_barred(hello.run)
        ]

    @property
    def message(self) -> str:
        """What an operator should know."""
        parts = [f"{name}: {text}" for name, text in sorted(self._refusals.items())]
        missing = [name for name in self._peer_ids if name not in self._hellos]
        if self.stranger and str(self._identity.origin) and self._identity.cluster_id is None:
            parts.insert(
                0,
                f"{self._identity.node_id} was restored from {self._identity.origin}, but a peer "
                "runs on the disk of another cluster: if that one is to go on, empty this one's "
                "data directory; if the backup is to take its place, stop all its brokers and "
                "restore them from the same file",
            )
        elif self.stranger:
            parts.insert(
                0,
                f"{self._identity.node_id} is not a member of its peers' cluster (its disk is "
                "empty or another's): it neither votes nor acknowledges until it is put in the "
                f"place of the one that was, with tq-admin replace-node {self._identity.node_id}",
            )
        elif not self.formed and missing:
            parts.insert(0, f"waits to form a cluster: no answer from {', '.join(missing)}")
        elif not self.formed and self._identity.cluster_id is not None and not self._recorded:
            parts.insert(0, "waits for a peer that says who the members are: its state is lost")
        return "; ".join(parts)

    # ------------------------------------------------------------------ judging

    def judge(self, hello: peer_pb2.Hello) -> peer_pb2.Refusal | None:
        """The reason to refuse the sender; None: it is welcome. Its Hello does not count yet."""
        refused = self._judge(hello)
        if refused is None:
            return None
        if refused.stranger and hello.pristine:
            self._saw_stranger(hello)
        self._note(hello.node_id, f"refused: {refused.message}{refused.known}")
        return peer_pb2.Refusal(message=refused.message, stranger=refused.stranger)

    def note_unproved(self, name: str, reason: str) -> None:
        """The node at a peer's address failed before its Hello."""
        self._note(name, reason)

    def _note(self, name: str, reason: str) -> None:
        """Keep the reason for the operator; log it once, although attempts repeat every second."""
        reason = bounds.shown(reason)
        if name not in self._peer_ids:
            self._strangers_said.warning("no connection to peer", {"peer": name, "reason": reason})
            return
        self._refusals[name] = reason
        if self._logged.get(name) != reason:
            said = self._said.setdefault(
                name, Sparing(_logger, self._clock.monotonic_s, every_s=NOTE_S)
            )
            if said.warning("no connection to peer", {"peer": name, "reason": reason}):
                self._logged[name] = reason

    def _judge(self, hello: peer_pb2.Hello) -> _Refused | None:
        identity, name = self._identity, hello.node_id
        if hello.format != frames.FORMAT:
            return _refusal(f"speaks format {hello.format}, {identity.node_id} {frames.FORMAT}")
        if name not in self._peer_ids:
            return _refusal(f"{name} is not among the other members {', '.join(self._peer_ids)}")
        if tuple(hello.member_ids) != self._member_ids:
            return _refusal(
                f"{name} is configured with members {', '.join(hello.member_ids)}, "
                f"{identity.node_id} with {', '.join(self._member_ids)}"
            )
        if hello.group_id != identity.group_id:
            return _refusal(f"{name} belongs to group {hello.group_id}, not {identity.group_id}")
        if self.formed and hello.restored_from and not hello.cluster_id:
            # Not even in a lost member's place: its log may hold other entries at the same indexes.
            return _refusal(
                f"{name} begins with {hello.restored_from}, but its members' cluster exists: only "
                "an empty disk can be taken in",
                known=f" (cluster {identity.cluster_id})",
            )
        if hello.cluster_version < self._cluster_version():
            return _refusal(
                f"{name} runs software of cluster version {hello.cluster_version}, the cluster is "
                f"at {self._cluster_version()}: start a newer tq-cluster on {name}"
            )
        if hello.cluster_id and identity.cluster_id not in {None, hello.cluster_id}:
            return _refusal(
                f"{name} belongs to cluster {hello.cluster_id}, which is not {identity.node_id}'s",
                known=f" ({identity.cluster_id})",
            )
        if why := self._unlike(hello):
            return _refusal(why)
        if not self.formed and hello.pristine and hello.restored_from != str(identity.origin):
            return _refusal(
                f"{name} begins with {hello.restored_from or 'nothing'}, {identity.node_id} with "
                f"{str(identity.origin) or 'nothing'}: restore all members from one backup, or none"
            )
        if self._copies.came_back(hello) and self._copies.bar([hello.run]):
            self._news()
        if self._copies.is_barred(hello.run):
            return _refusal(
                f"{name} runs twice: another process on the same disk ({hello.incarnation}) "
                "introduced itself after this one had, so one of their data directories is a copy "
                "of the other. Only the other counts now. Stop one of them; if it is the other, "
                "this one has to be emptied and put in its place with tq-admin replace-node "
                f"{name}"
            )
        if not self.formed:
            return None
        claimed: tuple[int, Mapping[str, str]] | None = None
        if hello.cluster_id and self._knows_this_disk(hello):
            claimed = hello.applied_index, dict(hello.incarnations)
        belongs = self._member_disks.belongs(name, hello.incarnation, claimed)
        # If only the record names its disk, it wrote the cluster's id down before the first vote.
        if not hello.cluster_id and not (belongs and self._member_disks.said):
            return _refusal(
                f"{name} is empty, but its members' cluster exists: it stays a stranger",
                stranger=True,
                known=f" (cluster {identity.cluster_id})",
            )
        if not belongs:
            known = self._member_disks.members() or {}
            return _refusal(
                f"{name} has another disk ({hello.incarnation}) than the member of that name: it "
                "stays a stranger",
                stranger=True,
                known=f" (the member's: {known.get(name)})",
            )
        return None

    def _unlike(self, hello: peer_pb2.Hello) -> str:
        """Say how the sender's recorded list contradicts this node's; empty: it does not."""
        recorded, theirs = self._identity.members, _recorded_in(hello)
        if recorded is None or theirs is None or not self._same_cluster(hello):
            return ""
        if recorded.incarnations.keys() != theirs.incarnations.keys():
            return (
                f"{hello.node_id} has recorded the members {theirs}, {self._identity.node_id}"
                f" {recorded}, and both the cluster {self._identity.cluster_id}"
            )
        # Lists as of different entries may differ: the later one names a replacement disk. While a
        # cluster forms, lists may still differ, too.
        if not self.formed or recorded.index != theirs.index:
            return ""
        if recorded.incarnations == theirs.incarnations:
            return ""
        return (
            f"{hello.node_id} has recorded other disks as those of {theirs} than"
            f" {self._identity.node_id} has, both as of entry {recorded.index}"
        )

    def _knows_this_disk(self, hello: peer_pb2.Hello) -> bool:
        """Whether the sender's Hello names this node's own disk as a member's."""
        identity = self._identity
        return hello.incarnations.get(identity.node_id) == identity.incarnation

    # ------------------------------------------------------------------ forming

    def on_hello(self, name: str, hello: peer_pb2.Hello) -> None:
        """A welcome peer said who it is."""
        self._hellos[name] = hello
        self._copies.welcomed(hello)
        if self._same_cluster(hello) and self._copies.bar(hello.barred_runs):
            self._news()
        self._versions[name] = hello.cluster_version
        self._strangers.pop(name, None)
        if not self.formed:
            self._advance(hello)
        if not self.stranger:
            self._refusals.pop(name, None)
        if self.formed and self._same_cluster(hello):
            self._member_disks.told(hello.applied_index, hello.incarnations)

    def on_refused(self, name: str | None, refusal: peer_pb2.Refusal) -> None:
        """A peer, or the node at a peer's address, refused this node; ``Peers`` checks that."""
        self._note(name or "unknown", refusal.message)
        if name is not None:
            self._hellos.pop(name, None)
        # If a member's disk was replaced, all peers refuse the old disk.
        if refusal.stranger and (not self.formed or not self._hellos):
            self.stranger = True

    def on_peer_down(self, name: str) -> None:
        """Forget the peer's Hello: it holds only while the peer is connected."""
        self._hellos.pop(name, None)

    def on_raft_message(self, name: str) -> None:
        """A peer of this node's own cluster sent a Raft message: all have the list on disk."""
        hello = self._hellos.get(name)
        if hello is not None and self._agrees(hello):
            self._form()

    def _advance(self, hello: peer_pb2.Hello) -> None:
        if not hello.pristine:
            self._meet_existing(hello)
            return
        if any(peer not in self._hellos for peer in self._peer_ids):
            return
        if not all(self._hellos[peer].pristine for peer in self._peer_ids):
            return
        if not self._pristine():
            return  # this node lacks its record: only a peer that has one can help
        self.stranger = False
        self._take_list()
        if all(self._agrees(self._hellos[peer]) for peer in self._peer_ids):
            self._form()

    def _meet_existing(self, hello: peer_pb2.Hello) -> None:
        """The cluster exists. This node belongs to it if it had written the id down."""
        identity = self._identity
        if identity.cluster_id is None and self._is_named_by(hello):
            self._join(hello.cluster_id, _by_state(hello), newcomer=True)
        elif self._same_cluster(hello):
            recorded, theirs = identity.members, _recorded_in(hello) or _by_state(hello)
            names_this = theirs.incarnations.get(identity.node_id) == identity.incarnation
            # An empty disk has voted by no list, and takes the list of a peer that may have voted.
            open_to_it = recorded is None or (self._pristine() and theirs.index >= recorded.index)
            if names_this and open_to_it:
                self._take(hello.cluster_id, theirs)
        if self._agrees(hello):
            self._form()
        elif not self._same_cluster(hello):
            self.stranger = True

    def _take_list(self) -> None:
        """All are empty: record the list that the member with the lowest id makes."""
        identity, lowest = self._identity, self._member_ids[0]
        if identity.node_id == lowest:
            self._take(identity.cluster_id or self._drawn_id(), self._seen())
            return
        drawn = self._hellos[lowest]
        if not drawn.cluster_id:
            return
        # A broker of the first version records no list.
        theirs = _recorded_in(drawn) or self._seen()
        if theirs.incarnations.get(identity.node_id) == identity.incarnation:
            self._take(drawn.cluster_id, theirs)

    def _take(self, cluster_id: str, members: MemberList) -> None:
        identity = self._identity
        if members.incarnations.keys() != set(self._member_ids):
            return  # this node counts majorities by the ids that it was started with
        if (identity.cluster_id, identity.members) != (cluster_id, members):
            self._join(cluster_id, members, newcomer=identity.newcomer)

    def _seen(self) -> MemberList:
        """The disks that have introduced themselves, this node's own among them."""
        disks = {peer: self._hellos[peer].incarnation for peer in self._peer_ids}
        disks[self._identity.node_id] = self._identity.incarnation
        return MemberList(incarnations=dict(sorted(disks.items())))

    @property
    def _recorded(self) -> bool:
        return self._identity.cluster_id is not None and self._identity.members is not None

    def _agrees(self, hello: peer_pb2.Hello) -> bool:
        """Whether the sender counts by the same list, or by a later or an earlier one."""
        recorded, theirs = self._identity.members, _recorded_in(hello)
        if recorded is None or not self._same_cluster(hello):
            return False
        # A broker of the first version records no list.
        return (
            theirs is None
            or recorded.incarnations == theirs.incarnations
            or (not hello.pristine and recorded.index != theirs.index)
        )

    def _drawn_id(self) -> str:
        """The id that an earlier attempt to form the cluster drew, or else a new one."""
        earlier = [self._hellos[peer].cluster_id for peer in self._peer_ids]
        return next((drawn for drawn in earlier if drawn), f"{self._draw.getrandbits(64):016x}")

    def _same_cluster(self, hello: peer_pb2.Hello) -> bool:
        return (
            self._identity.cluster_id is not None and hello.cluster_id == self._identity.cluster_id
        )

    def _is_named_by(self, hello: peer_pb2.Hello) -> bool:
        """Whether the sender's state names this disk as a member's, and the disk is empty."""
        identity = self._identity
        return (
            identity.cluster_id is None
            and self._pristine()
            and hello.incarnations.get(identity.node_id) == identity.incarnation
            and hello.incarnations.keys() == set(self._member_ids)
        )

    def _join(self, cluster_id: str, members: MemberList, *, newcomer: bool = False) -> None:
        _logger.info(
            "joins cluster",
            extra={
                "node": self._identity.node_id,
                "cluster_id": cluster_id,
                "members": str(members),
                "newcomer": newcomer,
            },
        )
        self._identity.join(cluster_id, members, newcomer=newcomer)
        self._news()

    def _form(self) -> None:
        self.formed = True
        self.stranger = False
        self._news()


def _as_message(members: MemberList | None) -> peer_pb2.MemberList | None:
    if members is None:
        return None
    return peer_pb2.MemberList(incarnations=members.incarnations, index=members.index)


def _recorded_in(hello: peer_pb2.Hello) -> MemberList | None:
    """The list that the sender has on its disk; None: it has none, or is of the first version."""
    if not hello.HasField("recorded"):
        return None
    return MemberList(incarnations=dict(hello.recorded.incarnations), index=hello.recorded.index)


def _by_state(hello: peer_pb2.Hello) -> MemberList:
    """The members by the sender's state."""
    return MemberList(incarnations=dict(hello.incarnations), index=hello.applied_index)


@dataclass(frozen=True, slots=True)
class _Refused:
    message: str
    """For the operators of both nodes."""
    stranger: bool
    known: str
    """Shown to this node's operator alone: it could help an impostor."""


def _refusal(message: str, *, stranger: bool = False, known: str = "") -> _Refused:
    return _Refused(message, stranger, known)
