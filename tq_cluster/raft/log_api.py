"""The narrow door to the log: all that the rest of the node knows of Raft.

What stands behind it could be replaced without touching another folder.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tq_cluster.core.model.types import AppliedAt


class Role(enum.Enum):
    """What part a node plays."""

    FORMING = "forming"
    """Waits until every configured member has answered that it is empty, too."""
    STRANGER = "stranger"
    """Empty in a cluster that exists, or not the disk that the cluster knows: no vote, no ack."""
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerProgress:
    """A peer as this node sees it."""

    connected: bool
    match_index: int
    """Leader only, else 0: the last entry the peer is known to hold on its disk."""
    wall_offset_ms: int | None
    """The peer's wall clock less ours, as of its last message; None when it has not said."""
    disk_low: bool = False
    """Whether the peer said in its last answer that its disk is nearly full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """Where the log stands on this node."""

    role: Role
    term: int
    leader_id: str | None
    last_index: int
    durable_index: int
    """The last entry that is on this node's disk with all before it."""
    commit_index: int
    applied_index: int
    journal_bytes: int
    peers: Mapping[str, PeerProgress]
    message: str = ""
    """What an operator should know. Empty: all is well."""
    strangers: Mapping[str, str] = field(default_factory=dict)
    """Empty disks that introduce themselves under a member's name, which they do not belong to yet:
    that name and their incarnation."""


class StateMachine(Protocol):
    """What the log is applied to. The storage layer implements it."""

    @property
    def applied(self) -> AppliedAt:
        """The last entry applied, durable or not."""

    @property
    def durable(self) -> AppliedAt:
        """The last entry applied in a commit that is known to be on disk."""

    @property
    def full(self) -> bool:
        """Whether nothing should be applied until the disk has got further."""

    def apply(self, index: int, term: int, entry: bytes) -> bool:
        """Apply the entry at ``applied.index + 1``; False when its header forbids it.

        ``entry`` is a serialized ``tq.internal.v1.Entry``, or empty for an election's no-op. Blind
        and total: an exception means that the process must end.
        """


class Log(Protocol):
    """The replicated log, as the leader's side of the node uses it, on the event loop."""

    def status(self) -> LogStatus:
        """Where the log stands now: some microseconds for each peer."""

    def leads(self) -> bool:
        """Whether this node leads: what every call asks."""

    def wall_offsets_ms(self) -> list[int]:
        """Of each peer that has said it, its wall clock less this node's."""

    def decidable(self) -> AppliedAt | None:
        """The end of the log and the term to decide in, or None.

        Not None exactly when this node leads, its own log is fully applied (the term's no-op
        included) and no entry is in flight: the one situation in which a decision is sound.
        """

    def propose(self, entry: bytes, base: AppliedAt) -> asyncio.Future[None]:
        """Append ``entry`` right after ``base`` (index and the present term) and replicate it.

        Resolves once it is committed and applied here. Raises NotLeaderError at once when ``base``
        is not the end of this leader's log; the future fails with OutcomeUnknownError when
        leadership ends first and with NotAppliedError when the entry was committed but changed
        nothing. Cancelling the future undoes nothing.
        """

    def confirm(self) -> asyncio.Future[AppliedAt]:
        """Resolve once this node is known to have led at an instant after this call (rule R13).

        The result is the applied position then; the state at or after it holds every write
        acknowledged before the call. Fails with NotLeaderError.
        """

    def common_version(self) -> int | None:
        """The newest cluster version of all members; None while one has not said its own."""

    def share_hash(self, index: int, digest: bytes) -> None:
        """Tell the leader what this node's state came to at an entry; lost where none is known."""

    def on_hash(self, listener: Callable[[str, int, bytes], None]) -> None:
        """Call ``listener`` with who shared a hash, of which entry, and what it came to."""

    def stop_differing(self, peer_id: str, message: str) -> None:
        """Tell a peer that its state is not the cluster's: it stops, and makes itself another."""

    def on_role_change(self, listener: Callable[[LogStatus], None]) -> None:
        """Call ``listener`` on the loop after each change of role, term or leader."""

    def on_decidable(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` on the loop whenever ``decidable()`` may have become not None."""

    def on_applied(self, listener: Callable[[int], None]) -> None:
        """Call ``listener`` on the loop with the last entry applied, whenever that has risen.

        Not once for each: several may have been applied, and a snapshot holds many.
        """

    async def transfer_leadership(self, target_id: str | None, within_s: float) -> str:
        """Hand over to ``target_id``, or to the peer that has most; return the new leader's id.

        One that leads already, and has this confirmed, has nothing to take over: a call that is
        repeated finds it so. Raises NotLeaderError here and now, TimeoutError when nobody took over
        in time (this node then goes on as before).
        """

    async def start(self) -> None:
        """Begin to listen, to connect and to take part."""

    async def stop(self) -> None:
        """Hand over if this node leads, take no further part, close the journal durably."""
