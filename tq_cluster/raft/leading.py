"""A leader's side of replication (R1, R3, R4, R12): what to send, and how answers count."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from tq.internal.v1 import peer_pb2
from tq_cluster.raft import frames
from tq_cluster.raft.journal_door import LogJournal, batch
from tq_cluster.raft.peers import Peers
from tq_cluster.raft.pysyncobj_core import PySyncObjCore
from tq_cluster.raft.rounds import Rounds
from tq_cluster.raft.settings import RaftSettings

_logger = logging.getLogger(__name__)


class SnapshotSender(Protocol):
    """Sends a peer a snapshot if the journal no longer holds the entries that it lacks."""

    def send_to(self, peer_id: str) -> None: ...


class Leading:
    """Sends appends and takes their answers. Idle unless this node leads."""

    def __init__(
        self,
        *,
        core: PySyncObjCore,
        journal: LogJournal,
        peers: Peers,
        rounds: Rounds,
        snapshots: SnapshotSender,
        settings: RaftSettings,
        now_s: Callable[[], float],
    ) -> None:
        self._core = core
        self._journal = journal
        self._peers = peers
        self._rounds = rounds
        self._snapshots = snapshots
        self._settings = settings
        self._rules = settings.rules
        self._now_s = now_s
        self._acked: dict[str, int] = {}
        """Per peer the highest next_index it acknowledged in this leadership, counted or not."""
        self._floor: dict[str, int] = {}
        """Per peer the lowest next_index it asked for since its last success."""
        self._needs_state: set[str] = set()
        """Peers that can apply nothing before they have installed a snapshot."""
        self._encoded: tuple[tuple[int, ...], list[bytes]] = ((), [])

    # ------------------------------------------------------------------ sending

    def broadcast(self, *, heartbeat: bool) -> None:
        """Begin a round: send every peer the entries it lacks, and a heartbeat if asked for."""
        echo_now = self._rounds.wanted
        self._rounds.begin(self._now_s())
        for peer_id in self._core.peer_ids:
            if self._peers.connected(peer_id):
                self._send_to(peer_id, heartbeat=heartbeat or echo_now, echo_now=echo_now)

    def send_missing(self, peer_id: str) -> None:
        """Send one peer what it lacks, as far as its connection takes it."""
        if self._core.leads and self._peers.connected(peer_id):
            self._send_to(peer_id, heartbeat=False, echo_now=False)

    def _send_to(self, peer_id: str, *, heartbeat: bool, echo_now: bool) -> None:
        core, journal = self._core, self._journal
        next_index = core.next_index(peer_id)
        if next_index <= journal.first_index or peer_id in self._needs_state:
            self._snapshots.send_to(peer_id)
            if heartbeat:
                self._probe(peer_id)
            return
        sent = False
        while next_index <= journal.last_index:
            if self._peers.backlog_bytes(peer_id) > self._settings.backlog_bytes:
                break
            encoded, next_index = self._append(next_index, echo_now=echo_now)
            core.set_next_index(peer_id, next_index)
            self._peers.send_in_order(peer_id, encoded)
            sent = True
        if not heartbeat:
            return
        if not self._peers.clear(peer_id):
            self._probe(peer_id)
        elif not sent:
            encoded, _ = self._append(next_index, echo_now=echo_now)
            self._peers.send_in_order(peer_id, encoded)

    def _append(self, next_index: int, *, echo_now: bool) -> tuple[list[bytes], int]:
        """The entries from ``next_index`` on as frames, and the index after them.

        The last encoding is kept: followers with the same next index get the same bytes.
        """
        core = self._core
        key = (
            next_index,
            self._journal.last_index,
            self._rounds.latest,
            core.commit_index,
            core.term,
        )
        if self._encoded[0][:-1] == key:
            return self._encoded[1], self._encoded[0][-1]
        entries = batch(self._journal, next_index, self._settings.append_bytes)
        prev_term = self._journal.term_at(next_index - 1)
        assert prev_term is not None
        append = peer_pb2.Append(
            term=core.term,
            round=self._rounds.latest,
            prev_index=next_index - 1,
            prev_term=prev_term,
            commit_index=core.commit_index,
            echo_now=echo_now,
        )
        end = next_index + len(entries)
        added = [(command, term) for command, _, term in entries]
        self._encoded = ((*key, end), frames.encode_append(append, added))
        return self._encoded[1], end

    def _probe(self, peer_id: str) -> None:
        probe = peer_pb2.Probe(term=self._core.term, round=self._rounds.latest)
        self._peers.send(peer_id, peer_pb2.PeerMessage(probe=probe))

    def probe_all(self) -> None:
        """Begin a round with probes alone: they carry no entries."""
        self._rounds.begin(self._now_s())
        for peer_id in self._core.peer_ids:
            self._probe(peer_id)

    # ------------------------------------------------------------------ answers

    def on_echo(self, peer_id: str, term: int, number: int) -> None:
        """A follower answered a round: the only thing that counts as contact with it."""
        if not self._core.leads or term != self._core.term:
            return
        begun_s = self._rounds.echoed(peer_id, number)
        if begun_s is not None and begun_s > self._core.contact_s(peer_id):
            self._core.set_contact_s(peer_id, begun_s)

    def on_append_reply(self, peer_id: str, reply: peer_pb2.AppendReply) -> None:
        if not self._core.leads:
            return
        if self._rules.terms_in_answers and reply.term != self._core.term:
            return
        self.on_echo(peer_id, reply.term, reply.round)
        if reply.needs_state:
            self._needs_state.add(peer_id)
        if reply.last_index + 1 < self._acked.get(peer_id, 0):
            self._stop_peer(peer_id, reply.last_index)
        elif reply.accepted:
            self.acknowledged(peer_id, reply.next_index)
        else:
            self._rejected(peer_id, reply.next_index)

    def acknowledged(self, peer_id: str, next_index: int) -> None:
        """The peer holds everything below ``next_index`` on its disk."""
        self._floor.pop(peer_id, None)
        self._acked[peer_id] = max(next_index, self._acked.get(peer_id, 0))
        self._count(peer_id)

    def snapshot_installed(self, peer_id: str, last_index: int) -> None:
        """The peer's state and log now reach that entry."""
        self._needs_state.discard(peer_id)
        self.acknowledged(peer_id, last_index + 1)
        self._core.set_next_index(peer_id, max(self._core.next_index(peer_id), last_index + 1))
        self.send_missing(peer_id)

    def on_synced(self) -> None:
        """Our own disk has caught up: acks that were ahead of it count now."""
        for peer_id, next_index in self._acked.items():
            if next_index - 1 > self._core.match_index(peer_id):
                self._count(peer_id)

    def _count(self, peer_id: str) -> None:
        """Count an ack up to our own durable entry: PySyncObj counts this node for all it holds."""
        next_index = self._acked[peer_id]
        if self._rules.answer_after_fsync:
            next_index = min(next_index, self._journal.durable_last_index() + 1)
        before = self._core.next_index(peer_id)
        self._tell_core(peer_id, next_index, success=True)
        if self._rules.monotonic_next_index:
            self._core.set_next_index(peer_id, max(before, next_index))

    def _rejected(self, peer_id: str, next_index: int) -> None:
        if self._rules.monotonic_next_index:
            if next_index >= self._floor.get(peer_id, next_index + 1):
                # It answers a message that was sent before the peer's last rejection was known.
                return
            self._floor[peer_id] = next_index
            next_index = min(next_index, self._journal.last_index + 1)
            next_index = max(next_index, self._core.match_index(peer_id) + 1)
        self._tell_core(peer_id, next_index, success=False)
        self.send_missing(peer_id)

    def _tell_core(self, peer_id: str, next_index: int, *, success: bool) -> None:
        contact_s = self._core.contact_s(peer_id)
        self._core.deliver(
            peer_id,
            {
                "type": "next_node_idx",
                "next_node_idx": next_index,
                "reset": not success,
                "success": success,
            },
        )
        if self._rules.confirm_by_rounds:
            # PySyncObj takes any answer, however late, for contact. Only echoes are.
            self._core.set_contact_s(peer_id, contact_s)

    def _stop_peer(self, peer_id: str, last_index: int) -> None:
        _logger.error(
            "peer lost entries that it had acknowledged",
            extra={"peer": peer_id, "last_index": last_index, "acked": self._acked[peer_id] - 1},
        )
        message = (
            f"this disk ends at entry {last_index}, but entry {self._acked[peer_id] - 1} was "
            f"acknowledged from it in term {self._core.term}: it went back to an older state"
        )
        stop = peer_pb2.Stop(message=message, acknowledged_index=self._acked[peer_id] - 1)
        self._peers.send(peer_id, peer_pb2.PeerMessage(stop=stop))

    # ------------------------------------------------------------------ changes

    def peer_down(self, peer_id: str) -> None:
        """The last messages may not have arrived: the peer's next rejection counts again."""
        self._floor.pop(peer_id, None)
        self._needs_state.discard(peer_id)

    def waits_for_state(self, peer_id: str) -> bool:
        """Whether the peer can apply nothing yet, and so could not lead."""
        return peer_id in self._needs_state

    def start_over(self, peer_id: str) -> None:
        """The peer's disk was replaced: entries that the old one acknowledged are not on it."""
        self._acked.pop(peer_id, None)
        self.peer_down(peer_id)
        self._core.forget_match(peer_id)

    def end_leadership(self) -> None:
        """Acknowledgements of this term do not count in a later one."""
        self._acked.clear()
        self._floor.clear()
        self._needs_state.clear()
