"""Elections around PySyncObj's: who may stand and when (rule R8), which votes count (rule R1).

PySyncObj stands for election when its deadline has passed. Here the deadline only starts an
*attempt*: the node asks the others whether they would vote. When a majority would, the deadline is
set to zero and PySyncObj stands.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tq.internal.v1 import peer_pb2
from tq_cluster.raft.journal_door import LogJournal, last_term
from tq_cluster.raft.output import OutputCommit
from tq_cluster.raft.pysyncobj_core import CoreState, PySyncObjCore
from tq_cluster.raft.settings import RaftSettings

_logger = logging.getLogger(__name__)

_PATIENT_RETRIES = 3
"""Refused attempts after which the pauses grow."""


class PeerLine(Protocol):
    """What elections need of the connections."""

    def connected(self, peer_id: str) -> bool: ...

    def arrivals(self, peer_id: str) -> int:
        """How often anything arrived on its connection."""

    def send(self, peer_id: str, message: peer_pb2.PeerMessage) -> None: ...

    def part_with(self, peer_id: str) -> None:
        """End the connection; the dialling side makes another at once."""


@dataclass(slots=True)
class _Attempt:
    number: int
    term: int
    """This node's term when it asked: an answer counts only while that is its term."""
    begun_s: float
    granted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    heard: dict[str, int] = field(default_factory=dict)
    """Per peer that was asked, the number of arrivals on its connection by then."""


class Elections:
    """One node's part in elections."""

    def __init__(
        self,
        *,
        node_id: str,
        core: PySyncObjCore,
        journal: LogJournal,
        line: PeerLine,
        output: OutputCommit,
        settings: RaftSettings,
        now_s: Callable[[], float],
        draw: random.Random,
        may_vote: Callable[[], bool],
        may_stand: Callable[[], bool],
        overslept: Callable[[], bool],
    ) -> None:
        """``may_vote``: whether this node's vote counts; ``may_stand``: whether it could lead, too.

        ``overslept``: whether it did not run for a while and has not read all its sockets since.
        """
        self._may_vote = may_vote
        self._may_stand = may_stand
        self._overslept = overslept
        self._node_id = node_id
        self._core = core
        self._journal = journal
        self._line = line
        self._output = output
        self._settings = settings
        self._rules = settings.rules
        self._now_s = now_s
        self._draw = draw
        self._leader_id: str | None = None
        self._leader_term = 0
        self._heard_s = float("-inf")
        self._attempts = 0
        self._attempt: _Attempt | None = None
        self._won_in_term: int | None = None
        self._refusals_in_a_row = 0
        self._votes: set[str] = set()
        self._vote_refusals: set[str] = set()
        self._votes_term = 0
        self._vote_granted = False

    # ------------------------------------------------------------------ the leader, as last seen

    @property
    def leader_id(self) -> str | None:
        """The leader of this node's term; None if it is unknown or not connected."""
        if self._core.leads:
            return self._node_id
        if self._leader_term == self._core.term and self._reachable(self._leader_id):
            return self._leader_id
        return None

    def heard_from_leader(self, peer_id: str) -> None:
        """A message came that only the leader of this node's term sends."""
        self._leader_id = peer_id
        self._leader_term = self._core.term
        self._heard_s = self._now_s()
        self._attempt = None
        self._won_in_term = None
        self._refusals_in_a_row = 0

    def hold_off(self) -> None:
        """The leader lives: stand no earlier than a full timeout from now."""
        if not self._core.handed_over:
            self._core.election_due_s = self._now_s() + self._core.new_election_timeout_s()

    def part_arrived(self, peer_id: str) -> None:
        """Bytes of a large message came: from the leader they are a sign of life."""
        if (
            peer_id == self._leader_id
            and self._leader_term == self._core.term
            and not self._core.leads
        ):
            self._heard_s = self._now_s()
            self._delay(
                self._settings.election_timeout_min_s, self._settings.election_timeout_min_s
            )

    def peer_up(self) -> None:
        """One more peer to ask: if no leader is alive, attempt an election soon."""
        if self._rules.pre_vote and not self._core.leads and not self._leader_alive():
            self._refusals_in_a_row = 0
            self._hurry(*self._settings.retry_delay_s)

    def peer_down(self, peer_id: str) -> None:
        """If the connection to the leader is lost, attempt an election before the timeout."""
        if self._rules.pre_vote and peer_id == self._leader_id and not self._core.leads:
            self._hurry(*self._settings.lost_leader_delay_s)

    def stalled(self) -> None:
        """This node did not run for a while: the leader's messages lie unread in the sockets."""
        core = self._core
        if not self._rules.pre_vote or core.leads:
            return
        # The leader that handed over has long gone on leading, or another node leads.
        self._forget_hand_over()
        if self._won_in_term is None:
            self._delay(*self._settings.granted_delay_s)

    def slept(self, stall_s: float) -> None:
        """All sockets were read since the stall: its seconds were not the leader's silence."""
        self.stalled()
        self._heard_s = min(self._heard_s + stall_s, self._now_s())

    def _forget_hand_over(self) -> None:
        if self._core.handed_over:
            self._core.forget_hand_over()
            self._core.election_due_s = self._now_s() + self._core.new_election_timeout_s()

    def _leader_alive(self) -> bool:
        silence_s = self._now_s() - self._heard_s
        return (
            self._reachable(self._leader_id) and silence_s < self._settings.election_timeout_min_s
        )

    def _reachable(self, peer_id: str | None) -> bool:
        return peer_id is not None and self._line.connected(peer_id)

    def _hurry(self, least_s: float, most_s: float) -> None:
        due_s = self._now_s() + self._draw.uniform(least_s, most_s)
        self._core.election_due_s = min(self._core.election_due_s, due_s)

    def _delay(self, least_s: float, most_s: float) -> None:
        due_s = self._now_s() + self._draw.uniform(least_s, most_s)
        self._core.election_due_s = max(self._core.election_due_s, due_s)

    def _retry_soon(self) -> None:
        self._refusals_in_a_row += 1
        doublings = min(max(self._refusals_in_a_row - _PATIENT_RETRIES, 0), 3)
        pause_s = self._draw.uniform(*self._settings.retry_delay_s) * 2**doublings
        self._core.election_due_s = self._now_s() + pause_s

    # ------------------------------------------------------------------ asking first

    def before_tick(self) -> None:
        """Let PySyncObj stand only when a majority would vote for it, or the leader asked it to."""
        core = self._core
        if core.leads:
            self._attempt = None
            return
        if core.handed_over and not self._fit_to_lead():
            self._forget_hand_over()
        if not self._rules.pre_vote or core.majority == 1 or core.handed_over:
            return
        now_s = self._now_s()
        if core.election_due_s >= now_s:
            return
        if self._won_in_term == core.term:
            self._won_in_term = None
            return
        core.election_due_s = now_s + core.new_election_timeout_s()
        if not self._fit_to_lead():
            return
        self._attempts += 1
        self._attempt = _Attempt(self._attempts, core.term, now_s)
        request = peer_pb2.PreVoteRequest(
            attempt=self._attempts,
            term=core.term + 1,
            last_index=self._journal.last_index,
            last_term=last_term(self._journal),
        )
        _logger.debug("asks for pre-votes", extra={"node": self._node_id, "term": core.term + 1})
        for peer_id in core.peer_ids:
            if self._line.connected(peer_id):
                self._attempt.heard[peer_id] = self._line.arrivals(peer_id)
                self._line.send(peer_id, peer_pb2.PeerMessage(pre_vote_request=request))

    def replace_mute_connections(self) -> None:
        """End connections that brought nothing since their peers were asked for a pre-vote.

        After a partition TCP resends lost data only when its next retransmission is due, and
        doubles that time at every failure (RFC 6298): two nodes that could elect a leader would
        wait for as long as they were apart. A new connection starts without that delay. A peer that
        did not answer because it does not run loses nothing.
        """
        attempt = self._attempt
        if attempt is None or attempt.term != self._core.term or self._core.leads:
            return
        if self._now_s() - attempt.begun_s < self._settings.mute_after_s:
            return
        heard, attempt.heard = attempt.heard, {}
        for peer_id, arrivals in heard.items():
            if self._line.connected(peer_id) and self._line.arrivals(peer_id) == arrivals:
                _logger.info("peer does not answer, connecting anew", extra={"peer": peer_id})
                self._line.part_with(peer_id)

    def _fit_to_lead(self) -> bool:
        return self._may_stand() and self._may_vote()

    def on_pre_vote_request(self, peer_id: str, request: peer_pb2.PreVoteRequest) -> None:
        granted = self._would_vote(peer_id, request)
        if granted:
            self._attempt = None
            self._delay(*self._settings.granted_delay_s)
        reply = peer_pb2.PreVoteReply(
            attempt=request.attempt, term=self._core.term, granted=granted
        )
        self._line.send(peer_id, peer_pb2.PeerMessage(pre_vote_reply=reply))

    def _would_vote(self, peer_id: str, request: peer_pb2.PreVoteRequest) -> bool:
        if self._core.leads or request.term <= self._core.term or not self._may_vote():
            return False
        ours = (last_term(self._journal), self._journal.last_index)
        theirs = (request.last_term, request.last_index)
        if theirs < ours:
            return False
        if peer_id != self._leader_id and (
            self._leader_alive() or (self._overslept() and self._reachable(self._leader_id))
        ):
            return False
        # Two attempts at once: exactly one of the two gives way.
        return not self._attempt_is_fresh() or (*ours, self._node_id) < (*theirs, peer_id)

    def _attempt_is_fresh(self) -> bool:
        if self._attempt is None or self._attempt.term != self._core.term:
            return False
        return self._now_s() - self._attempt.begun_s < self._settings.election_timeout_min_s / 2

    def on_pre_vote_reply(self, peer_id: str, reply: peer_pb2.PreVoteReply) -> None:
        core = self._core
        if reply.term > core.term:
            self.adopt(reply.term)
            return
        attempt = self._attempt
        if attempt is None or core.leads:
            return
        if reply.attempt != attempt.number or attempt.term != core.term:
            return
        if not reply.granted:
            attempt.refused.add(peer_id)
            if self._hopeless(attempt.granted, attempt.refused):
                self._attempt = None
                self._retry_soon()
            return
        attempt.granted.add(peer_id)
        if len(attempt.granted) + 1 >= core.majority:
            self._attempt = None
            self._won_in_term = core.term
            core.election_due_s = 0.0

    def _hopeless(self, granted: set[str], refused: set[str]) -> bool:
        may_grant = {
            name
            for name in self._core.peer_ids
            if self._line.connected(name) and name not in refused
        }
        return 1 + len(granted | may_grant) < self._core.majority

    # ------------------------------------------------------------------ votes

    def send_vote_request(self, peer_id: str, message: dict[str, int]) -> None:
        """PySyncObj stands: its own vote must be on disk before anyone hears of the term."""
        request = peer_pb2.VoteRequest(
            term=message["term"],
            last_index=message["last_log_index"],
            last_term=message["last_log_term"],
        )
        self._output.send(peer_id, peer_pb2.PeerMessage(vote_request=request))

    def send_vote(self, peer_id: str, message: dict[str, int]) -> None:
        """PySyncObj voted for the peer."""
        self._vote_granted = True
        vote = peer_pb2.VoteReply(term=message["term"], granted=True)
        self._output.send(peer_id, peer_pb2.PeerMessage(vote_reply=vote))

    def on_vote_request(self, peer_id: str, request: peer_pb2.VoteRequest) -> None:
        self._vote_granted = False
        self.adopt(request.term)
        if self._may_vote():
            self._core.deliver(
                peer_id,
                {
                    "type": "request_vote",
                    "term": request.term,
                    "last_log_term": request.last_term,
                    "last_log_index": request.last_index,
                },
            )
        if not self._vote_granted:
            refusal = peer_pb2.VoteReply(term=self._core.term, granted=False)
            self._output.send(peer_id, peer_pb2.PeerMessage(vote_reply=refusal))

    def on_vote_reply(self, peer_id: str, reply: peer_pb2.VoteReply) -> None:
        core = self._core
        if reply.term > core.term:
            self.adopt(reply.term)
            return
        if self._votes_term != core.term:
            self._votes_term = core.term
            self._votes = set()
            self._vote_refusals = set()
        if core.state != CoreState.CANDIDATE:
            return
        if not reply.granted:
            self._vote_refusals.add(peer_id)
            if self._hopeless(self._votes, self._vote_refusals):
                self._retry_soon()
            return
        if self._rules.terms_in_answers:
            if reply.term != core.term or peer_id in self._votes:
                return
            self._votes.add(peer_id)
        core.deliver(peer_id, {"type": "response_vote", "term": reply.term})

    # ------------------------------------------------------------------ terms

    def adopt(self, term: int) -> None:
        """Follow in a higher term."""
        if term > self._core.term:
            self._core.adopt_term(term)
            self._forget_hand_over()

    def tell_term(self, peer_id: str) -> None:
        """A leader of an earlier term spoke: tell it that its leadership is over."""
        if self._rules.pre_vote:
            notice = peer_pb2.TermNotice(term=self._core.term)
            self._output.send(peer_id, peer_pb2.PeerMessage(term_notice=notice))

    def on_timeout_now(self, peer_id: str, notice: peer_pb2.TimeoutNow) -> None:
        """The leader hands over: PySyncObj stands at the next tick."""
        if not self._fit_to_lead():
            _logger.warning("cannot take over yet", extra={"from": peer_id, "term": notice.term})
            return
        self._core.deliver(peer_id, {"type": "timeout_now", "term": notice.term})
