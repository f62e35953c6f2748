"""The replicated log of one node, behind the interface that the rest of the node knows."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tq.internal.v1 import peer_pb2
from tq_cluster.clock import Clock
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import NotAppliedError, NotLeaderError, OutcomeUnknownError
from tq_cluster.raft.engine import Dependencies, Engine
from tq_cluster.raft.formation import Membership, NodeIdentity
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.log_api import LogStatus, PeerProgress, Role, StateMachine
from tq_cluster.raft.network import Network
from tq_cluster.raft.pysyncobj_core import NO_OP, CoreState
from tq_cluster.raft.secret import Secret
from tq_cluster.raft.settings import RaftSettings
from tq_cluster.raft.snapshots import States

_logger = logging.getLogger(__name__)

_ROLES: dict[int, Role] = {
    CoreState.FOLLOWER: Role.FOLLOWER,
    CoreState.CANDIDATE: Role.CANDIDATE,
    CoreState.LEADER: Role.LEADER,
}


@dataclass(frozen=True, slots=True)
class _InFlight:
    index: int
    term: int
    done: asyncio.Future[None]


class Replica:
    """Implements ``log_api.Log``."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        members: Mapping[str, str],
        journal: LogJournal,
        machine: StateMachine,
        states: States,
        network: Network,
        clock: Clock,
        draw: random.Random,
        fatal: Callable[[BaseException], None],
        membership: Callable[[], Membership | None],
        cluster_version: Callable[[], int] = lambda: 0,
        settings: RaftSettings | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        disk_low: Callable[[], bool] = lambda: False,
        secret: Secret | None = None,
    ) -> None:
        """Wire the parts, which ``Dependencies`` explains. ``loop``: by default the running one."""
        around = Dependencies(
            identity=identity,
            members=members,
            journal=journal,
            machine=machine,
            states=states,
            network=network,
            clock=clock,
            draw=draw,
            fatal=fatal,
            membership=membership,
            cluster_version=cluster_version,
            settings=settings or RaftSettings(),
            loop=loop or asyncio.get_running_loop(),
            disk_low=disk_low,
            secret=secret,
        )
        self._node_id = around.identity.node_id
        self._loop = around.loop
        self._journal = around.journal
        self._machine = around.machine
        self._settings = around.settings
        self._engine = Engine(
            around,
            applied=self._on_applied,
            settled=self._on_settled,
            leadership_ended=self._on_leadership_ended,
        )
        self._core = self._engine.core
        self._in_flight: _InFlight | None = None
        self._handing_over = False
        self._seen: tuple[Role, int, str | None] | None = None
        self._was_decidable = False
        self._role_listeners: list[Callable[[LogStatus], None]] = []
        self._decidable_listeners: list[Callable[[], None]] = []
        self._applied_listeners: list[Callable[[int], None]] = []
        self._told_applied = self._core.applied_index
        self._watchers: list[asyncio.Future[None]] = []

    # ------------------------------------------------------------------ where it stands

    def status(self) -> LogStatus:
        core, peers = self._core, self._engine.peers
        role, term, leader_id = self._view()
        return LogStatus(
            role=role,
            term=term,
            leader_id=leader_id,
            last_index=self._journal.last_index,
            durable_index=self._journal.durable_last_index(),
            commit_index=core.commit_index,
            applied_index=core.applied_index,
            journal_bytes=self._journal.size_bytes,
            peers={
                peer_id: PeerProgress(
                    connected=peers.connected(peer_id),
                    match_index=core.match_index(peer_id) if core.leads else 0,
                    wall_offset_ms=peers.wall_offset_ms(peer_id),
                    disk_low=peers.disk_low(peer_id),
                )
                for peer_id in core.peer_ids
            },
            message=self._message(),
            strangers=self._engine.formation.strangers(),
        )

    def leads(self) -> bool:
        return self._view()[0] is Role.LEADER

    def wall_offsets_ms(self) -> list[int]:
        offsets_ms = map(self._engine.peers.wall_offset_ms, self._core.peer_ids)
        return [offset_ms for offset_ms in offsets_ms if offset_ms is not None]

    def announce_forward_port(self, port: int) -> None:
        """Set the port for calls that peers forward to this node. Call it before ``start``."""
        self._engine.forward_port = port

    def forward_port(self, peer_id: str) -> int:
        """The port for calls forwarded to a peer; 0 if it takes them at its API, or is away."""
        return self._engine.forward_ports.get(peer_id, 0)

    def _view(self) -> tuple[Role, int, str | None]:
        formation = self._engine.formation
        if formation.stranger:
            return Role.STRANGER, self._core.term, None
        if not formation.formed:
            return Role.FORMING, self._core.term, None
        return _ROLES[self._core.state], self._core.term, self._engine.elections.leader_id

    def _message(self) -> str:
        parts = [self._engine.formation.message]
        if self._engine.rebuilding:
            parts.append("the state ends before the journal begins: waits for a peer's snapshot")
        return "; ".join(part for part in parts if part)

    def formation(self) -> Membership | None:
        """The cluster's id and members, for its first entry; None while they are not recorded."""
        return self._engine.formation.membership()

    def common_version(self) -> int | None:
        return self._engine.formation.common_version()

    def share_hash(self, index: int, digest: bytes) -> None:
        self._engine.hashed(index, digest)

    def on_hash(self, listener: Callable[[str, int, bytes], None]) -> None:
        self._engine.hash_listeners.append(listener)

    def stop_differing(self, peer_id: str, message: str) -> None:
        stop = peer_pb2.Stop(message=message, state_differs=True)
        self._engine.peers.send(peer_id, peer_pb2.PeerMessage(stop=stop))

    def on_role_change(self, listener: Callable[[LogStatus], None]) -> None:
        self._role_listeners.append(listener)

    def on_decidable(self, listener: Callable[[], None]) -> None:
        self._decidable_listeners.append(listener)

    def on_applied(self, listener: Callable[[int], None]) -> None:
        self._applied_listeners.append(listener)

    # ------------------------------------------------------------------ proposing and confirming

    def decidable(self) -> AppliedAt | None:
        if not self._core.leads or self._in_flight is not None or self._handing_over:
            return None
        if self._core.applied_index != self._journal.last_index or not self._engine.running:
            return None
        return AppliedAt(self._journal.last_index, self._core.term)

    def propose(self, entry: bytes, base: AppliedAt) -> asyncio.Future[None]:
        if self.decidable() != base:
            raise NotLeaderError(self._engine.elections.leader_id)
        if not entry or entry == NO_OP:
            raise ValueError("an entry is a serialized Entry")
        index = base.index + 1
        done: asyncio.Future[None] = self._loop.create_future()
        self._in_flight = _InFlight(index, base.term, done)
        self._was_decidable = False
        self._engine.guarded(lambda: self._engine.append(entry, index, base.term))
        return done

    def confirm(self) -> asyncio.Future[AppliedAt]:
        confirmed: asyncio.Future[AppliedAt] = self._loop.create_future()
        if not self._core.leads or not self._engine.running:
            confirmed.set_exception(NotLeaderError(self._engine.elections.leader_id))
        elif not self._settings.rules.confirm_by_rounds:
            confirmed.set_result(self._machine.applied)
        else:
            self._engine.rounds.wait(confirmed)
            self._engine.request_round()
        return confirmed

    def mark(self) -> int:
        return self._engine.rounds.latest

    def led_since(self, mark: int) -> bool:
        if not self._core.leads or not self._engine.running:
            return False
        if not self._settings.rules.confirm_by_rounds:
            return True
        # The state of a new leader may lack acknowledged writes until it has applied its no-op.
        core = self._core
        return core.applied_index >= core.noop_index and self._engine.rounds.confirmed() > mark

    def _on_applied(self, index: int, term: int, took_effect: bool) -> None:
        flight = self._in_flight
        if flight is None or flight.index != index:
            return
        self._in_flight = None
        if flight.done.done():
            return
        if flight.term == term and took_effect:
            flight.done.set_result(None)
        else:
            flight.done.set_exception(NotAppliedError(f"entry {index} of term {term}"))

    def _on_leadership_ended(self) -> None:
        flight, self._in_flight = self._in_flight, None
        if flight is not None and not flight.done.done():
            flight.done.set_exception(OutcomeUnknownError(f"entry {flight.index} was in flight"))

    def _on_settled(self) -> None:
        view = self._view()
        if view != self._seen:
            role, term, leader_id = self._seen = view
            _logger.info(
                "role changed", extra={"role": role.value, "term": term, "leader": leader_id}
            )
            status = self.status()
            for role_listener in self._role_listeners:
                role_listener(status)
        if self.decidable() is None:
            self._was_decidable = False
        elif not self._was_decidable:
            self._was_decidable = True
            for listener in self._decidable_listeners:
                listener()
        if self._told_applied != self._core.applied_index:
            self._told_applied = self._core.applied_index
            for applied_listener in self._applied_listeners:
                applied_listener(self._told_applied)
        if not self._watchers:
            return
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    # ------------------------------------------------------------------ beginning and ending

    async def start(self) -> None:
        await self._engine.start()

    async def stop(self) -> None:
        if not self._engine.running:
            return
        if self._core.leads and self._connected_majority():
            try:
                await self.transfer_leadership(None, self._settings.leader_fallback_s)
            except (NotLeaderError, TimeoutError) as error:
                _logger.warning("stops without a successor", extra={"reason": str(error)})
        self._engine.stop()
        self._journal.close()

    def _connected_majority(self) -> bool:
        connected = sum(map(self._engine.peers.connected, self._core.peer_ids))
        return connected > 0 and connected + 1 >= self._core.majority

    async def transfer_leadership(self, target_id: str | None, within_s: float) -> str:
        if not self._core.leads:
            raise NotLeaderError(self._engine.elections.leader_id)
        if target_id == self._node_id:
            async with asyncio.timeout(within_s):
                await self.confirm()
            return self._node_id
        if target_id is not None and target_id not in self._core.peer_ids:
            raise ValueError(f"{target_id} is not another member")
        self._handing_over = True
        try:
            async with asyncio.timeout(within_s):
                return await self._hand_over(target_id)
        finally:
            self._handing_over = False
            self._engine.guarded(self._engine.settle)

    async def _hand_over(self, target_id: str | None) -> str:
        told_s = float("-inf")
        while True:
            leader_id = self._engine.elections.leader_id
            if leader_id is not None and leader_id != self._node_id:
                return leader_id
            if not self._connected_majority():
                raise TimeoutError("no majority is in reach")
            now_s = self._loop.time()
            if self._core.leads and now_s - told_s > self._settings.election_timeout_min_s:
                successor_id = target_id or self._best_successor()
                if self._in_flight is None and self._core.hand_over(successor_id):
                    _logger.info("hands over", extra={"to": successor_id, "term": self._core.term})
                    told_s = now_s
            watcher: asyncio.Future[None] = self._loop.create_future()
            self._watchers.append(watcher)
            await watcher

    def _best_successor(self) -> str:
        peers = [name for name in self._core.peer_ids if self._engine.peers.connected(name)]
        able = [name for name in peers if not self._engine.leading.waits_for_state(name)]
        return max(able or peers, key=self._core.match_index)
