"""The log of one node: PySyncObj inside its rules, behind the door that the rest of the node knows.

Everything runs on the event loop. Whatever nobody foresaw, wherever it is raised, ends the process: going on
with a log in an unknown state is the one thing worse than stopping.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tq.internal.v1 import peer_pb2
from tq_cluster.clock import Clock
from tq_cluster.core.types import AppliedAt
from tq_cluster.errors import FatalError, NotAppliedError, NotLeaderError, OutcomeUnknownError
from tq_cluster.raft.applying import Applier
from tq_cluster.raft.door import LogStatus, PeerProgress, Role, StateMachine
from tq_cluster.raft.elections import Elections
from tq_cluster.raft.following import Following
from tq_cluster.raft.formation import Formation, Membership, NodeIdentity
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.leading import Leading
from tq_cluster.raft.network import Network
from tq_cluster.raft.output import OutputCommit
from tq_cluster.raft.peers import Peers
from tq_cluster.raft.pysyncobj_core import NO_OP, CoreState, PySyncObjCore
from tq_cluster.raft.rounds import Rounds
from tq_cluster.raft.settings import RaftSettings

log = logging.getLogger(__name__)

_JUST_AFTER_S = 0.0005
"""PySyncObj acts when an instant has passed, not when it has come."""

_ROLES = {
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
    """Implements ``door.Log``. ``members`` maps every member's id, this one's too, to its raft address."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        members: Mapping[str, str],
        journal: LogJournal,
        machine: StateMachine,
        network: Network,
        clock: Clock,
        draw: random.Random,
        fatal: Callable[[BaseException], None],
        membership: Callable[[], Membership | None] = lambda: None,
        settings: RaftSettings | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Wire the parts. ``fatal`` ends the process; ``membership`` reads the members from the state."""
        self._settings = settings = settings or RaftSettings()
        self._loop = loop = loop or asyncio.get_running_loop()
        self._node_id = identity.node_id
        self._journal = journal
        self._machine = machine
        self._fatal = fatal
        self._core = core = PySyncObjCore(
            node_id=identity.node_id,
            member_ids=sorted(members),
            journal=journal,
            hooks=self,
            settings=settings,
            monotonic_s=loop.time,
            draw=draw,
        )
        # PySyncObj begins at entry 1 whatever the state holds. What was applied was committed.
        core.applied_index = core.commit_index = machine.applied.index
        self._peers = Peers(
            node_id=identity.node_id,
            members=members,
            network=network,
            loop=loop,
            clock=clock,
            draw=draw,
            listener=self,
            guarded=self._guarded,
        )
        self._formation = Formation(
            identity=identity,
            member_ids=tuple(sorted(members)),
            pristine=lambda: journal.last_index <= 1 and journal.getCurrentTerm() == 0,
            membership=membership,
            clock=clock,
            draw=draw,
            news=self._on_formation_news,
        )
        self._output = OutputCommit(journal, self._peers.send, settings.rules)
        self._elections = Elections(
            node_id=identity.node_id,
            core=core,
            journal=journal,
            line=self._peers,
            output=self._output,
            settings=settings,
            now_s=loop.time,
            draw=draw,
        )
        self._following = Following(
            core=core,
            journal=journal,
            elections=self._elections,
            output=self._output,
            send_now=self._peers.send,
            clock=clock,
            rules=settings.rules,
        )
        self._rounds = Rounds(core.peer_ids, core.majority, settings.leader_fallback_s)
        self._leading = Leading(
            core=core,
            journal=journal,
            peers=self._peers,
            rounds=self._rounds,
            snapshots=self,
            settings=settings,
            now_s=loop.time,
        )
        self._applier = Applier(
            core=core,
            journal=journal,
            machine=machine,
            settings=settings,
            now_s=loop.time,
            applied=self._on_applied,
        )
        self._in_flight: _InFlight | None = None
        self._handing_over = False
        self._running = False
        self._tick_scheduled = False
        self._round_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._compact_due_s = loop.time()
        self._reign: int | None = None
        """The term this node leads; None when it does not."""
        self._seen: tuple[Role, int, str | None] | None = None
        self._was_decidable = False
        self._role_listeners: list[Callable[[LogStatus], None]] = []
        self._decidable_listeners: list[Callable[[], None]] = []
        self._watchers: list[asyncio.Future[None]] = []

    # ------------------------------------------------------------------ the door

    def status(self) -> LogStatus:
        core = self._core
        role, term, leader_id = self._view()
        return LogStatus(
            role=role,
            term=term,
            leader_id=leader_id,
            last_index=self._journal.last_index,
            commit_index=core.commit_index,
            applied_index=core.applied_index,
            journal_bytes=self._journal.size_bytes,
            peers={
                peer_id: PeerProgress(
                    connected=self._peers.connected(peer_id),
                    match_index=core.match_index(peer_id) if core.leads else 0,
                    wall_offset_ms=self._peers.wall_offset_ms(peer_id),
                )
                for peer_id in core.peer_ids
            },
            message=self._formation.message,
        )

    def formation(self) -> Membership | None:
        """Who forms the cluster, for its first entry; None while a member has not been seen."""
        return self._formation.membership()

    def decidable(self) -> AppliedAt | None:
        if not self._core.leads or self._in_flight is not None or self._handing_over:
            return None
        if self._core.applied_index != self._journal.last_index:
            return None
        return AppliedAt(self._journal.last_index, self._core.term)

    def propose(self, entry: bytes, base: AppliedAt) -> asyncio.Future[None]:
        if self.decidable() != base:
            raise NotLeaderError(self._elections.leader_id)
        if not entry or entry == NO_OP:
            raise ValueError("an entry is a serialized Entry")
        index = base.index + 1
        self._was_decidable = False
        done: asyncio.Future[None] = self._loop.create_future()
        self._in_flight = _InFlight(index, base.term, done)
        self._guarded(lambda: self._append(entry, index, base.term))
        return done

    def _append(self, entry: bytes, index: int, term: int) -> None:
        self._journal.add(entry, index, term)
        self._journal.request_sync()
        self._leading.broadcast(heartbeat=False)

    def confirm(self) -> asyncio.Future[AppliedAt]:
        confirmed: asyncio.Future[AppliedAt] = self._loop.create_future()
        if not self._core.leads:
            confirmed.set_exception(NotLeaderError(self._elections.leader_id))
            return confirmed
        if not self._settings.rules.confirm_by_rounds:
            confirmed.set_result(self._machine.applied)
            return confirmed
        self._rounds.wait(confirmed)
        if not self._round_scheduled:
            # At the end of this pass over the loop: one round serves all who ask in it.
            self._round_scheduled = True
            self._loop.call_soon(self._guarded, self._send_round)
        return confirmed

    def on_role_change(self, listener: Callable[[LogStatus], None]) -> None:
        self._role_listeners.append(listener)

    def on_decidable(self, listener: Callable[[], None]) -> None:
        self._decidable_listeners.append(listener)

    async def start(self) -> None:
        self._running = True
        self._journal.on_synced(lambda: self._guarded(self._on_synced))
        self._journal.request_sync()
        self._formation.begin()
        self._core.election_due_s = self._loop.time() + self._core.new_election_timeout_s()
        await self._peers.start()
        self._guarded(self._settle)

    async def stop(self) -> None:
        if not self._running:
            return
        if self._core.leads and any(map(self._peers.connected, self._core.peer_ids)):
            try:
                await self.transfer_leadership(None, self._settings.leader_fallback_s)
            except (NotLeaderError, TimeoutError) as error:
                log.warning("stops without a successor", extra={"reason": str(error)})
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        self._peers.stop()
        self._end_reign()
        self._journal.close()

    # ------------------------------------------------------------------ handing over

    async def transfer_leadership(self, target_id: str | None, within_s: float) -> str:
        if not self._core.leads:
            raise NotLeaderError(self._elections.leader_id)
        self._handing_over = True
        try:
            async with asyncio.timeout(within_s):
                return await self._hand_over(target_id)
        finally:
            self._handing_over = False
            self._guarded(self._settle)

    async def _hand_over(self, target_id: str | None) -> str:
        told_s = float("-inf")
        while True:
            leader_id = self._elections.leader_id
            if leader_id not in {None, self._node_id}:
                assert leader_id is not None
                return leader_id
            now_s = self._loop.time()
            if self._core.leads and now_s - told_s > self._settings.election_timeout_min_s:
                best_id = target_id or self._best_successor()
                if self._in_flight is None and best_id and self._core.hand_over(best_id):
                    log.info("hands over", extra={"to": best_id, "term": self._core.term})
                    told_s = now_s
            watcher: asyncio.Future[None] = self._loop.create_future()
            self._watchers.append(watcher)
            await watcher

    def _best_successor(self) -> str | None:
        peers = [peer_id for peer_id in self._core.peer_ids if self._peers.connected(peer_id)]
        return max(peers, key=self._core.match_index, default=None)

    # ------------------------------------------------------------------ CoreHooks

    def on_core_send(self, peer_id: str, message: dict[str, Any]) -> None:
        match message["type"]:
            case "next_node_idx":
                self._following.send_reply(peer_id, message)
            case "request_vote":
                self._elections.send_vote_request(peer_id, message)
            case "response_vote":
                self._elections.send_vote(peer_id, message)
            case "timeout_now":
                notice = peer_pb2.TimeoutNow(term=message["term"])
                self._peers.send(peer_id, peer_pb2.PeerMessage(timeout_now=notice))
            case other:
                raise FatalError(f"PySyncObj wants to send {other}")

    def on_core_replicate(self) -> None:
        self._leading.broadcast(heartbeat=True)

    def on_core_apply(self) -> None:
        self._applier.apply_slice()

    # ------------------------------------------------------------------ PeerListener

    def own_hello(self) -> peer_pb2.Hello:
        return self._formation.own_hello()

    def judge_hello(self, hello: peer_pb2.Hello) -> peer_pb2.Refusal | None:
        return self._formation.judge(hello)

    def on_hello(self, peer_id: str, hello: peer_pb2.Hello) -> None:
        self._formation.on_hello(peer_id, hello)
        self._settle()

    def on_refused(self, peer_id: str | None, refusal: peer_pb2.Refusal) -> None:
        self._formation.on_refused(peer_id, refusal)
        self._settle()

    def on_peer_up(self, peer_id: str) -> None:
        self._core.set_connected(peer_id, connected=True)
        if self._core.leads:
            self._core.heartbeat_due_s = 0.0
        self._elections.peer_up()
        self._request_tick()

    def on_peer_down(self, peer_id: str) -> None:
        self._core.set_connected(peer_id, connected=False)
        self._output.forget(peer_id)
        self._formation.on_peer_down(peer_id)
        self._leading.peer_down(peer_id)
        self._elections.peer_down(peer_id)
        self._settle()

    def on_peer_part(self, peer_id: str) -> None:
        self._elections.part_arrived(peer_id)

    def on_peer_room(self, peer_id: str) -> None:
        self._leading.send_missing(peer_id)

    def on_peer_message(self, peer_id: str, message: peer_pb2.PeerMessage) -> None:
        if not self._running:
            return
        if not self._formation.formed:
            self._formation.on_leader(peer_id)
            if not self._formation.formed:
                return
        match message.WhichOneof("body"):
            case "append":
                self._following.on_append(peer_id, message.append)
            case "append_reply":
                self._peers.note_wall_ms(peer_id, message.append_reply.wall_ms)
                self._leading.on_append_reply(peer_id, message.append_reply)
                self._request_tick()
            case "probe":
                self._following.on_probe(peer_id, message.probe)
            case "echo":
                self._peers.note_wall_ms(peer_id, message.echo.wall_ms)
                self._leading.on_echo(peer_id, message.echo.term, message.echo.round)
            case "pre_vote_request":
                self._elections.on_pre_vote_request(peer_id, message.pre_vote_request)
            case "pre_vote_reply":
                self._elections.on_pre_vote_reply(peer_id, message.pre_vote_reply)
            case "vote_request":
                self._elections.on_vote_request(peer_id, message.vote_request)
            case "vote_reply":
                self._elections.on_vote_reply(peer_id, message.vote_reply)
            case "term_notice":
                self._elections.adopt(message.term_notice.term)
            case "timeout_now":
                self._elections.on_timeout_now(peer_id, message.timeout_now)
            case "stop":
                raise FatalError(f"told to stop by {peer_id}: {message.stop.message}")
            case other:
                log.warning("unknown message", extra={"peer": peer_id, "kind": other})
        self._settle()

    def send_to(self, peer_id: str) -> None:
        log.warning("the peer needs a snapshot", extra={"peer": peer_id})

    # ------------------------------------------------------------------ the loop

    def _guarded(self, function: Callable[[], None]) -> None:
        """Run what the loop calls; anything it raises ends the process."""
        try:
            function()
        except Exception as error:  # noqa: BLE001 - not swallowed: handed to whoever ends the process
            self._running = False
            self._fatal(error)

    def _on_formation_news(self) -> None:
        self._peers.refresh_hello()
        self._request_tick()

    def _on_synced(self) -> None:
        self._output.release()
        if self._core.leads:
            self._leading.on_synced()
            self._request_tick()
        self._settle()

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

    def _request_tick(self) -> None:
        """Tick after what is being delivered now."""
        if not self._tick_scheduled and self._running:
            self._tick_scheduled = True
            self._loop.call_soon(self._guarded, self._tick)

    def _tick(self) -> None:
        self._tick_scheduled = False
        if not self._running or not self._formation.formed:
            return
        now_s = self._loop.time()
        if self._timer is not None and self._overslept(now_s):
            self._elections.stalled()
        self._elections.before_tick()
        self._core.tick()
        if now_s >= self._compact_due_s:
            self._compact_due_s = now_s + self._settings.compact_every_s
            self._journal.compact(self._machine.durable.index)
        self._settle()

    def _overslept(self, now_s: float) -> bool:
        assert self._timer is not None
        return now_s - self._timer.when() > self._settings.election_timeout_min_s / 2

    def _send_round(self) -> None:
        self._round_scheduled = False
        if self._core.leads and self._rounds.wanted and not self._rounds.under_way:
            self._leading.probe_all()
            self._settle()

    def _settle(self) -> None:
        """After every change: end a reign that ended, wake who waits, see to disk and timers."""
        core = self._core
        if self._reign is not None and (not core.leads or core.term != self._reign):
            self._end_reign()
        if core.leads:
            self._reign = core.term
            if core.applied_index >= core.noop_index:
                self._rounds.resolve(self._machine.applied)
            if self._rounds.wanted and not self._rounds.under_way and not self._round_scheduled:
                self._round_scheduled = True
                self._loop.call_soon(self._guarded, self._send_round)
        self._journal.request_sync()
        if self._applier.behind:
            self._request_tick()
        self._tell()
        self._arm_timer()

    def _end_reign(self) -> None:
        self._reign = None
        leader_id = self._elections.leader_id
        self._rounds.end_reign(leader_id)
        self._leading.end_reign()
        flight, self._in_flight = self._in_flight, None
        if flight is not None and not flight.done.done():
            flight.done.set_exception(OutcomeUnknownError(f"entry {flight.index} was in flight"))

    def _tell(self) -> None:
        view = self._view()
        if view != self._seen:
            log.info("role", extra={"role": view[0].value, "term": view[1], "leader": view[2]})
            self._seen = view
            status = self.status()
            for role_listener in self._role_listeners:
                role_listener(status)
        decidable = self.decidable() is not None
        if decidable and not self._was_decidable:
            self._was_decidable = True
            for listener in self._decidable_listeners:
                listener()
        else:
            self._was_decidable = decidable
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _view(self) -> tuple[Role, int, str | None]:
        if self._formation.stranger:
            return Role.STRANGER, self._core.term, None
        if not self._formation.formed:
            return Role.FORMING, self._core.term, None
        return _ROLES[self._core.state], self._core.term, self._elections.leader_id

    def _arm_timer(self) -> None:
        """Wake for the next heartbeat or the next attempt, whichever is this node's."""
        if not self._running or not self._formation.formed:
            return
        due_s = self._core.heartbeat_due_s if self._core.leads else self._core.election_due_s
        if due_s <= self._loop.time():
            self._request_tick()
            return
        due_s += _JUST_AFTER_S
        if self._timer is not None and not self._timer.cancelled():
            if self._timer.when() <= due_s and self._timer.when() > self._loop.time():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._guarded, self._tick)
