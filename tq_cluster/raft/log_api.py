"""The narrow interface to the log: all that the rest of the node knows of Raft.

The implementation could be replaced without a change in another folder.
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
    """Unadmitted: empty in an existing cluster, or not the member's disk. No vote, no ack."""
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
    """The peer's wall clock less ours, as of its last message; None if it has sent none."""
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
    """Unadmitted empty disks that introduce themselves under a member's name: that name to their
    incarnation."""


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
        """Whether nothing should be applied until the disk has caught up."""

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
        """Whether this node leads. Every call asks this."""

    def wall_offsets_ms(self) -> list[int]:
        """Per peer that has sent its wall clock: that clock less this node's."""

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

    def mark(self) -> int:
        """Return a mark of the present instant, for ``led_since``."""

    def led_since(self, mark: int) -> bool:
        """Whether this node is known to have led at an instant after ``mark``, and leads still.

        If so, a read needs no ``confirm`` of its own: the log's other messages did the same.
        """

    def common_version(self) -> int | None:
        """The newest cluster version of all members; None while one has not said its own."""

    def share_hash(self, index: int, digest: bytes) -> None:
        """Send all connected peers this node's hash of the range that an entry names."""

    def on_hash(self, listener: Callable[[str, int, bytes], None]) -> None:
        """Call ``listener`` with the peer that shared a hash, the entry's index, and the hash."""

    def stop_differing(self, peer_id: str, message: str) -> None:
        """Tell a peer that its state differs: it stops if its own evidence agrees.

        Started again, it sets that state aside and rebuilds it.
        """

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

        If ``target_id`` is this node, its leadership is confirmed instead, so a repeated call
        succeeds. Raises NotLeaderError at once if this node does not lead, TimeoutError if no peer
        took over in time (this node then goes on as before).
        """

    async def start(self) -> None:
        """Begin to listen, to connect, and to run Raft."""

    async def stop(self) -> None:
        """Hand over if this node leads, stop Raft, close the journal durably."""
