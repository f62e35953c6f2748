"""A log of one node whose commits a test releases or holds back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import NotLeaderError, OutcomeUnknownError
from tq_cluster.raft.log_api import LogStatus, PeerProgress, Role
from tq_cluster.storage.memory import MemoryStore


@dataclass
class FakeLog:
    """Commits proposals as soon as the test allows it: at once, unless ``held``."""

    store: MemoryStore
    role: Role = Role.LEADER
    term: int = 1
    held: bool = False
    confirms_held: bool = False
    proposals: list[bytes] = field(default_factory=list)
    confirms: int = 0
    peers: dict[str, PeerProgress] = field(default_factory=dict)
    version: int | None = CLUSTER_VERSION
    handing_over: bool = False

    def __post_init__(self) -> None:
        self.stopped: list[tuple[str, str]] = []
        self._flight: tuple[bytes, asyncio.Future[None]] | None = None
        self._rounds: list[asyncio.Future[AppliedAt]] = []
        self._role_listeners: list[Callable[[LogStatus], None]] = []
        self._decidable_listeners: list[Callable[[], None]] = []

    def status(self) -> LogStatus:
        applied = self.store.applied
        return LogStatus(
            role=self.role,
            term=self.term,
            leader_id="n1" if self.role is Role.LEADER else "n2",
            last_index=applied.index,
            durable_index=applied.index,
            commit_index=applied.index,
            applied_index=applied.index,
            journal_bytes=0,
            peers=self.peers,
        )

    def leads(self) -> bool:
        return self.role is Role.LEADER

    def wall_offsets_ms(self) -> list[int]:
        offsets_ms = [each.wall_offset_ms for each in self.peers.values()]
        return [offset_ms for offset_ms in offsets_ms if offset_ms is not None]

    def decidable(self) -> AppliedAt | None:
        if self.role is not Role.LEADER or self._flight is not None or self.handing_over:
            return None
        return AppliedAt(self.store.applied.index, self.term)

    def propose(self, entry: bytes, base: AppliedAt) -> asyncio.Future[None]:
        assert base == self.decidable()
        self.proposals.append(entry)
        flight = asyncio.get_running_loop().create_future()
        self._flight = (entry, flight)
        if not self.held:
            asyncio.get_running_loop().call_soon(self.let_through)
        return flight

    def confirm(self) -> asyncio.Future[AppliedAt]:
        if self.role is not Role.LEADER:
            raise NotLeaderError("n2")
        self.confirms += 1
        round_: asyncio.Future[AppliedAt] = asyncio.get_running_loop().create_future()
        if self.confirms_held:
            self._rounds.append(round_)
        else:
            round_.set_result(self.store.applied)
        return round_

    def mark(self) -> int:
        return len(self.proposals)

    def led_since(self, mark: int) -> bool:
        """As if every commit since were a round that began after it."""
        return self.role is Role.LEADER and not self.confirms_held and len(self.proposals) > mark

    def common_version(self) -> int | None:
        return self.version

    def share_hash(self, index: int, digest: bytes) -> None:
        """Do nothing: there is no other node."""

    def on_hash(self, listener: Callable[[str, int, bytes], None]) -> None:
        self.hash_listener = listener

    def stop_differing(self, peer_id: str, message: str) -> None:
        self.stopped.append((peer_id, message))

    def on_role_change(self, listener: Callable[[LogStatus], None]) -> None:
        self._role_listeners.append(listener)

    def on_applied(self, listener: Callable[[int], None]) -> None:
        raise NotImplementedError

    def on_decidable(self, listener: Callable[[], None]) -> None:
        self._decidable_listeners.append(listener)

    async def transfer_leadership(self, target_id: str | None, within_s: float) -> str:
        raise TimeoutError

    async def start(self) -> None:
        """Become the leader at once."""
        self.store.apply(self.store.applied.index + 1, self.term, b"")
        for listener in self._decidable_listeners:
            listener()

    def elect(self) -> None:
        """Make this node the leader again, in the next term."""
        self.role = Role.LEADER
        self.term += 1
        self.store.apply(self.store.applied.index + 1, self.term, b"")
        for role_listener in self._role_listeners:
            role_listener(self.status())
        for listener in self._decidable_listeners:
            listener()

    async def stop(self) -> None:
        """Do nothing: no task runs."""

    def let_through(self) -> None:
        """Commit and apply the proposals in flight."""
        assert self._flight is not None
        entry, flight = self._flight
        self._flight = None
        assert self.store.apply(self.store.applied.index + 1, self.term, entry)
        if not flight.done():
            flight.set_result(None)
        self.tell_decidable()

    def tell_decidable(self) -> None:
        """Signal that operations may be decided again."""
        for listener in self._decidable_listeners:
            listener()

    def let_rounds_through(self) -> None:
        """Confirm the waiting rounds."""
        rounds, self._rounds = self._rounds, []
        for each in rounds:
            each.set_result(self.store.applied)

    def depose(self) -> None:
        """Make another node the leader; proposals in flight may or may not survive."""
        self.role = Role.FOLLOWER
        flight, self._flight = self._flight, None
        if flight is not None:
            flight[1].set_exception(OutcomeUnknownError("leadership ended"))
        for each in self._rounds:
            each.set_exception(NotLeaderError("n2"))
        for listener in self._role_listeners:
            listener(self.status())
