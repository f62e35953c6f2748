"""One node's Raft at work: the parts wired together, and driven by the event loop.

Messages are delivered as they arrive; a tick follows behind them. After either, ``settle`` handles
the consequences. An unexpected exception ends the process, wherever it is raised: to go on with a
log in an unknown state is worse than to stop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tq.internal.v1 import peer_pb2
from tq_cluster.beats import next_beat_s
from tq_cluster.clock import Clock
from tq_cluster.errors import FatalError, StateDiffersError
from tq_cluster.raft import bounds
from tq_cluster.raft.applying import Applier
from tq_cluster.raft.elections import Elections
from tq_cluster.raft.following import Following
from tq_cluster.raft.formation import Formation, Membership, NodeIdentity
from tq_cluster.raft.journal_door import LoggedEntry, LogJournal
from tq_cluster.raft.leading import Leading
from tq_cluster.raft.log_api import StateMachine
from tq_cluster.raft.members import counted, settle
from tq_cluster.raft.membership import MemberDisks
from tq_cluster.raft.network import Network
from tq_cluster.raft.output import OutputCommit
from tq_cluster.raft.peers import Peers
from tq_cluster.raft.pysyncobj_core import PySyncObjCore
from tq_cluster.raft.rounds import Rounds
from tq_cluster.raft.secret import Secret
from tq_cluster.raft.settings import RaftSettings
from tq_cluster.raft.snapshots import SnapshotReceiving, SnapshotSending, States
from tq_cluster.raft.witness import Witness

_logger = logging.getLogger(__name__)

PORT_MAX = 65_535
STOP_NAMES_ENTRIES_VERSION = 3
"""From this cluster version on a leader's Stop names the entry that is missing."""
_JUST_AFTER_S = 0.0005
"""PySyncObj acts after a deadline has passed, not at the deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What a node's Raft needs. ``members``: ids and raft addresses, by the configuration file."""

    identity: NodeIdentity
    members: Mapping[str, str]
    journal: LogJournal
    machine: StateMachine
    states: States
    network: Network
    clock: Clock
    draw: random.Random
    fatal: Callable[[BaseException], None]
    """Ends the process."""
    membership: Callable[[], Membership | None]
    """The cluster's id and members, by the state."""
    cluster_version: Callable[[], int]
    """The version of the leaders' rules, by the state."""
    settings: RaftSettings
    loop: asyncio.AbstractEventLoop
    disk_low: Callable[[], bool]
    """Whether this node's disk is nearly full; the node reports it to its leader."""
    secret: Secret | None
    """The secret that peers must prove that they hold."""


class Engine:
    """Drives the core. Calls ``applied`` for every applied entry, ``settled`` after any change."""

    def __init__(
        self,
        around: Dependencies,
        *,
        applied: Callable[[int, int, bool], None],
        settled: Callable[[], None],
        leadership_ended: Callable[[], None],
    ) -> None:
        self._around = around
        self._settings = settings = around.settings
        self._loop = loop = around.loop
        self._journal = journal = around.journal
        self._machine = machine = around.machine
        self._settled = settled
        self._leadership_ended = leadership_ended
        node_id = around.identity.node_id
        member_ids = counted(around.identity.members, around.members)
        self.core = core = PySyncObjCore(
            node_id=node_id,
            member_ids=member_ids,
            journal=journal,
            hooks=self,
            settings=settings,
            monotonic_s=loop.time,
            draw=around.draw,
        )
        # PySyncObj begins at entry 1, regardless of the state. Applied entries were committed.
        core.applied_index = core.commit_index = machine.applied.index
        self.peers = Peers(
            node_id=node_id,
            members={name: around.members[name] for name in member_ids},
            network=around.network,
            loop=loop,
            clock=around.clock,
            draw=around.draw,
            listener=self,
            guarded=self.guarded,
            secret=around.secret,
        )
        self.witness = Witness(members=len(member_ids))
        self.member_disks = MemberDisks(
            journal,
            lambda: machine.applied.index,
            around.membership,
            lambda: around.identity.members,
        )
        self.forward_port = 0
        """The port for calls that other nodes forward; the Hello to members names it."""
        self.forward_ports: dict[str, int] = {}
        """The same of connected peers. 0: a peer of an earlier version takes them at its API."""
        self.formation = Formation(
            identity=around.identity,
            member_ids=member_ids,
            pristine=self._pristine,
            member_disks=self.member_disks,
            cluster_version=around.cluster_version,
            clock=around.clock,
            draw=around.draw,
            news=self._on_formation_news,
        )
        self._output = OutputCommit(journal, self.peers.send, settings.rules)
        self.elections = Elections(
            node_id=node_id,
            core=core,
            journal=journal,
            line=self.peers,
            output=self._output,
            settings=settings,
            now_s=loop.time,
            draw=around.draw,
            may_vote=self.formation.may_vote,
            may_stand=lambda: not self.rebuilding,
            overslept=self._overslept,
        )
        self._following = Following(
            core=core,
            journal=journal,
            elections=self.elections,
            output=self._output,
            send_now=self.peers.send,
            clock=around.clock,
            rules=settings.rules,
            rebuilding=lambda: self.rebuilding,
            disk_low=around.disk_low,
            taken=self._note_members,
        )
        self.rounds = Rounds(core.peer_ids, core.majority, settings.leader_fallback_s)
        self._sending = SnapshotSending(
            core=core,
            journal=journal,
            peers=self.peers,
            states=around.states,
            settings=settings,
            now_s=loop.time,
            current_round=lambda: self.rounds.latest,
            durable_index=lambda: machine.durable.index,
            guarded=self.guarded,
        )
        self._receiving = SnapshotReceiving(
            core=core,
            journal=journal,
            applied=lambda: machine.applied,
            states=around.states,
            settings=settings,
            clock=around.clock,
            send_durable=self._output.send,
            installed=self._on_installed,
            guarded=self.guarded,
        )
        self.leading = Leading(
            core=core,
            journal=journal,
            peers=self.peers,
            rounds=self.rounds,
            snapshots=self._sending,
            settings=settings,
            now_s=loop.time,
        )
        self._applier = Applier(
            core=core,
            journal=journal,
            machine=machine,
            settings=settings,
            now_s=loop.time,
            held=lambda: self._receiving.installing or self.rebuilding,
            applied=applied,
        )
        self.hash_listeners: list[Callable[[str, int, bytes], None]] = []
        self._running = False
        self._failed = False
        """An unexpected error was raised: no callback runs any more."""
        self._tick_scheduled = False
        self._round_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._pulse_due_s = loop.time()
        self._pulse_timer: asyncio.TimerHandle | None = None
        self._compact_due_s = loop.time()
        self._leadership: int | None = None
        """The term this node leads; None when it does not."""

    @property
    def running(self) -> bool:
        return self._running

    @property
    def rebuilding(self) -> bool:
        """The state ends before the journal begins: it waits for a peer's snapshot."""
        return self._machine.applied.index < self._journal.first_index

    async def start(self) -> None:
        self._running = True
        self._journal.on_synced(lambda: self.guarded(self._on_synced))
        self._journal.request_sync()
        self.formation.begin()
        self.core.election_due_s = self._loop.time() + self.core.new_election_timeout_s()
        self._pulse_due_s = self._loop.time()
        self._pulse()
        await self.peers.start()
        self.guarded(self.settle)

    def stop(self) -> None:
        """Stop timers and connections; the journal stays open."""
        self._running = False
        for timer in (self._timer, self._pulse_timer):
            if timer is not None:
                timer.cancel()
        self.peers.stop()
        self._end_leadership()

    # ------------------------------------------------------------------ for a leader

    def append(self, entry: bytes, index: int, term: int) -> None:
        """Put an entry at the end of the log and send it to everyone."""
        self._journal.add(entry, index, term)
        self._note_members([(entry, index, term)])
        self._journal.request_sync()
        self.leading.broadcast(heartbeat=False)

    def _note_members(self, entries: Sequence[LoggedEntry]) -> None:
        """Entries were added to the log: a change of members among them binds this node now."""
        replaced = self.member_disks.note(entries)
        if not replaced:
            return
        for peer_id in replaced:
            if peer_id in self.core.peer_ids:
                self.leading.start_over(peer_id)
        self._part_with_replaced()

    def _part_with_replaced(self) -> None:
        for peer_id in self.formation.no_longer_welcome():
            _logger.warning(
                "the peer's disk is another's now, or runs twice", extra={"peer": peer_id}
            )
            self.peers.part_with(peer_id)

    def request_round(self) -> None:
        """Begin one round at the end of this pass over the loop, for all who ask in it."""
        if not self._round_scheduled:
            self._round_scheduled = True
            self._loop.call_soon(self.guarded, self._send_round)

    def _send_round(self) -> None:
        self._round_scheduled = False
        # If a round is under way, its end begins the next.
        if self.core.leads and self.rounds.wanted and not self.rounds.under_way:
            self.leading.probe_all()
            self.settle()

    # ------------------------------------------------------------------ CoreHooks

    def on_core_send(self, peer_id: str, message: dict[str, Any]) -> None:
        match message["type"]:
            case "next_node_idx":
                self._following.send_reply(peer_id, message)
            case "request_vote":
                self.elections.send_vote_request(peer_id, message)
            case "response_vote":
                self.elections.send_vote(peer_id, message)
            case "timeout_now":
                notice = peer_pb2.TimeoutNow(term=message["term"])
                self.peers.send(peer_id, peer_pb2.PeerMessage(timeout_now=notice))
            case other:
                raise FatalError(f"PySyncObj wants to send {other}")

    def on_core_replicate(self) -> None:
        self.leading.broadcast(heartbeat=True)

    def on_core_apply(self) -> None:
        self._applier.apply_slice()

    # ------------------------------------------------------------------ PeerListener

    def own_hello(self, *, to_member: bool) -> peer_pb2.Hello:
        hello = self.formation.own_hello(to_member=to_member)
        if to_member:
            hello.forward_port = self.forward_port
        return hello

    def judge_hello(self, hello: peer_pb2.Hello) -> peer_pb2.Refusal | None:
        return self.formation.judge(hello)

    def on_hello(self, peer_id: str, hello: peer_pb2.Hello) -> None:
        self.formation.on_hello(peer_id, hello)
        if hello.forward_port <= PORT_MAX:
            self.forward_ports[peer_id] = hello.forward_port
        self._part_with_replaced()
        self.settle()

    def on_refused(self, peer_id: str | None, refusal: peer_pb2.Refusal) -> None:
        self.formation.on_refused(peer_id, refusal)
        self.settle()

    def on_unproved(self, peer_id: str, reason: str) -> None:
        self.formation.note_unproved(peer_id, reason)

    def on_peer_up(self, peer_id: str) -> None:
        self.core.set_connected(peer_id, connected=True)
        if self.core.leads:
            self.core.heartbeat_due_s = 0.0
        self.elections.peer_up()
        self._request_tick()

    def on_peer_down(self, peer_id: str) -> None:
        self.core.set_connected(peer_id, connected=False)
        self.forward_ports.pop(peer_id, None)
        self._output.forget(peer_id)
        self.formation.on_peer_down(peer_id)
        self.leading.peer_down(peer_id)
        self._sending.peer_down(peer_id)
        self._receiving.peer_down(peer_id)
        self.elections.peer_down(peer_id)
        self.settle()

    def on_peer_part(self, peer_id: str) -> None:
        self.elections.part_arrived(peer_id)

    def on_peer_room(self, peer_id: str) -> None:
        self.leading.send_missing(peer_id)

    def on_peer_message(self, peer_id: str, message: peer_pb2.PeerMessage) -> None:
        if not self._running:
            return
        flaw = bounds.flaw_in(message, self._standing())
        if flaw is not None:
            self.peers.refuse(peer_id, f"{self._around.identity.node_id} cannot believe it: {flaw}")
            return
        if not self.formation.formed or self.formation.stranger:
            self.formation.on_raft_message(peer_id)
            if not self.formation.formed:
                return
        self._deliver(peer_id, message)
        if not self._tick_scheduled:
            self.settle()

    def _pristine(self) -> bool:
        return self._around.identity.origin.is_all_of(self._journal)

    def _standing(self) -> bounds.Standing:
        core = self.core
        return bounds.Standing(
            # Cheap first: a node that has a term has voted or received an entry.
            term=core.term if core.term or not self._pristine() else None,
            last_index=self._journal.last_index,
            leads=core.leads,
            latest_round=self.rounds.latest,
        )

    def _deliver(self, peer_id: str, message: peer_pb2.PeerMessage) -> None:
        match message.WhichOneof("body"):
            case "append":
                self._following.on_append(peer_id, message.append)
            case "append_reply":
                self.peers.note_wall_ms(peer_id, message.append_reply.wall_ms)
                self.peers.note_disk_low(peer_id, message.append_reply.disk_low)
                self.leading.on_append_reply(peer_id, message.append_reply)
                self._commit_soon()
            case "probe":
                self._following.on_probe(peer_id, message.probe)
            case "echo":
                self.peers.note_wall_ms(peer_id, message.echo.wall_ms)
                self.peers.note_disk_low(peer_id, message.echo.disk_low)
                self.leading.on_echo(peer_id, message.echo.term, message.echo.round)
            case "pre_vote_request":
                self.elections.on_pre_vote_request(peer_id, message.pre_vote_request)
            case "pre_vote_reply":
                self.elections.on_pre_vote_reply(peer_id, message.pre_vote_reply)
                self._request_tick()
            case "vote_request":
                self.elections.on_vote_request(peer_id, message.vote_request)
            case "vote_reply":
                self.elections.on_vote_reply(peer_id, message.vote_reply)
            case "term_notice":
                self.elections.adopt(message.term_notice.term)
            case "timeout_now":
                self.elections.on_timeout_now(peer_id, message.timeout_now)
                self._request_tick()
            case "snapshot_chunk":
                if self._following.on_chunk(peer_id, message.snapshot_chunk):
                    self._receiving.on_chunk(peer_id, message.snapshot_chunk)
            case "snapshot_reply":
                self.peers.note_wall_ms(peer_id, message.snapshot_reply.wall_ms)
                reached = self._sending.on_reply(peer_id, message.snapshot_reply)
                if reached is not None:
                    self.leading.snapshot_installed(peer_id, reached)
                self._commit_soon()
            case "range_hash":
                index, digest = message.range_hash.index, message.range_hash.digest
                self.witness.heard(peer_id, index, digest)
                for listener in self.hash_listeners:
                    listener(peer_id, index, digest)
                self._stop_if_outvoted()
            case "stop":
                self._on_stop(peer_id, message.stop)
            case other:
                _logger.warning("unknown message", extra={"peer": peer_id, "kind": other})

    def _on_stop(self, peer_id: str, stop: peer_pb2.Stop) -> None:
        """A peer demands that this node stop. The node stops only if its own evidence agrees."""
        said = f"told to stop by {peer_id}: {bounds.shown(stop.message)}"
        if stop.state_differs:
            self.witness.accused = said
            self._stop_if_outvoted()
            _logger.warning("accused of a state that differs", extra={"peer": peer_id})
            return
        named, last_index = stop.acknowledged_index, self._journal.last_index
        extra = {"peer": peer_id, "acknowledged_index": named, "last_index": last_index}
        version = self.formation.version_of(peer_id) or 0
        if peer_id != self.elections.leader_id:
            _logger.warning("told to stop by one that does not lead", extra=extra)
        elif named <= last_index and (named or version >= STOP_NAMES_ENTRIES_VERSION):
            _logger.warning("told to stop for an entry that is here", extra=extra)
        else:
            raise FatalError(said)

    def hashed(self, index: int, digest: bytes) -> None:
        """Send all peers this node's own hash of the range that an entry names."""
        self.witness.own(index, digest)
        shared = peer_pb2.PeerMessage(range_hash=peer_pb2.RangeHash(index=index, digest=digest))
        for peer_id in self.core.peer_ids:
            self.peers.send(peer_id, shared)
        # This is called while an entry is applied: do not stop before that is done.
        self._loop.call_soon(self.guarded, self._stop_if_outvoted)

    def _stop_if_outvoted(self) -> None:
        if self.witness.accused is not None and self.witness.outvoted():
            raise StateDiffersError(self.witness.accused)

    # ------------------------------------------------------------------ the loop

    def guarded(self, function: Callable[[], None]) -> None:
        """Run what the loop calls; anything it raises ends the process."""
        if self._failed:
            return
        try:
            function()
        except Exception as error:  # noqa: BLE001 - it ends the process
            self._failed = True
            self._running = False
            self._around.fatal(error)

    def _on_formation_news(self) -> None:
        self.peers.refresh_hello()
        self._request_tick()

    def _on_synced(self) -> None:
        self._output.release()
        if self.core.leads:
            self.leading.on_synced()
            self._commit_soon()
        self.settle()

    def _on_installed(self) -> None:
        # The new state may name other disks than the old one.
        self._settle_members()
        self._part_with_replaced()
        self.settle()

    def _commit_soon(self) -> None:
        """Tick after an ack or an fsync: PySyncObj advances the commit index in its tick."""
        if self.core.commit_index < self._journal.last_index:
            self._request_tick()

    def _request_tick(self) -> None:
        """Tick after what is being delivered now."""
        if not self._tick_scheduled and self._running:
            self._tick_scheduled = True
            self._loop.call_soon(self.guarded, self._tick)

    def _tick(self) -> None:
        self._tick_scheduled = False
        if not self._running or not self.formation.formed:
            return
        now_s = self._loop.time()
        if self._overslept():
            self.elections.stalled()
        self.elections.before_tick()
        self.core.tick()
        if now_s >= self._compact_due_s:
            self._compact_due_s = now_s + self._settings.compact_every_s
            # First: the journal may hold what the record lacks.
            self._settle_members()
            self._compact()
        self.settle()

    def _settle_members(self) -> None:
        around = self._around
        if why := settle(around.identity, around.membership(), self._machine.applied.index):
            raise FatalError(why)

    def _compact(self) -> None:
        upto, kept_from = self._machine.durable.index, self._sending.kept_from()
        if kept_from is not None and self._journal.size_bytes < self._settings.kept_journal_bytes:
            upto = min(upto, kept_from)
        self._journal.compact(upto)

    def _pulse(self) -> None:
        """Detect stalls: after a late pulse, messages wait unread in this node's sockets."""
        if self._overslept():
            self.elections.slept(self._loop.time() - self._pulse_due_s)
        else:
            self.elections.replace_mute_connections()
        self._pulse_due_s = next_beat_s(self._loop.time())
        self._pulse_timer = self._loop.call_at(self._pulse_due_s, self.guarded, self._pulse)

    def _overslept(self) -> bool:
        late_s = self._loop.time() - self._pulse_due_s
        return late_s > self._settings.election_timeout_min_s / 2

    def settle(self) -> None:
        """After every change: end a lost leadership, wake waiters, request an fsync, set timers."""
        if not self._running:
            return
        core = self.core
        if self._leadership is not None and (not core.leads or core.term != self._leadership):
            self._end_leadership()
        if core.leads:
            self._leadership = core.term
            if core.applied_index >= core.noop_index:
                self.rounds.resolve(self._machine.applied)
            if self.rounds.wanted and not self.rounds.under_way:
                self.request_round()
        if self.member_disks.has_news():
            self.peers.refresh_hello()
        self._journal.request_sync()
        if core.applied_index < core.commit_index and self._applier.behind:
            self._request_tick()
        self._settled()
        self._arm_timer()

    def _end_leadership(self) -> None:
        self._leadership = None
        self.rounds.end_leadership(self.elections.leader_id)
        self.leading.end_leadership()
        self._sending.end_leadership()
        self._leadership_ended()

    def _arm_timer(self) -> None:
        """Set the timer for a leader's next heartbeat, or for this node's next election attempt."""
        if not self.formation.formed:
            return
        now_s = self._loop.time()
        due_s = self.core.heartbeat_due_s if self.core.leads else self.core.election_due_s
        # A deadline may stay in the past while no peer is connected.
        due_s = max(due_s, now_s) + _JUST_AFTER_S
        if self._timer is not None:
            if now_s < self._timer.when() <= due_s and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self.guarded, self._tick)
