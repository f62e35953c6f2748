"""The connections to the other members, one to each: made, judged and kept alive.

The member with the lower id dials, and speaks first. If the cluster has a secret both sides prove
that they hold it; then each introduces itself with a Hello and judges the other's. A Hello that
does not fit is refused with a message that both operators can read. Until a node is admitted, only
its Hello is parsed, nothing that it says counts, and the acceptor tells the dialler nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from tq.internal.v1 import peer_pb2
from tq_cluster.clock import Clock
from tq_cluster.raft import bounds, frames
from tq_cluster.raft.connection import Connection
from tq_cluster.raft.handshake import Accepting, Dialling, HandshakeError
from tq_cluster.raft.lobby import Lobby
from tq_cluster.raft.network import Network
from tq_cluster.raft.secret import Secret
from tq_cluster.telemetry.sparing import Sparing

_logger = logging.getLogger(__name__)

REDIAL_MIN_S = 0.020
REDIAL_MAX_S = 0.100
"""Short: until two nodes that could elect a leader are connected, the cluster takes no writes."""
REFUSED_REDIAL_S = 1.0
SWEEP_S = 0.5
SILENT_SWEEPS_MAX = 6
"""A connection that brought nothing for so many sweeps is dead: an idle peer sends pings."""
HANDSHAKE_SWEEPS_MAX = 10
"""After so many, 5 s, a connection that is not admitted is closed, even if bytes arrive on it."""

_HELLO_FIRST = bytes([peer_pb2.PeerMessage.HELLO_FIELD_NUMBER << 3 | 2])
_REFUSAL_FIRST = bytes([peer_pb2.PeerMessage.REFUSAL_FIELD_NUMBER << 3 | 2])


class PeerListener(Protocol):
    """What ``Peers`` asks and reports to."""

    def own_hello(self, *, to_member: bool) -> peer_pb2.Hello:
        """How this node introduces itself; ``to_member``: to one that has been admitted."""

    def judge_hello(self, hello: peer_pb2.Hello) -> peer_pb2.Refusal | None:
        """The reason to refuse the sender; None: it is welcome. Its Hello does not count yet."""

    def on_hello(self, peer_id: str, hello: peer_pb2.Hello) -> None:
        """A welcome peer introduced itself, or has news about itself."""

    def on_refused(self, peer_id: str | None, refusal: peer_pb2.Refusal) -> None:
        """A peer refused this node. ``peer_id``: the peer that was admitted or dialled."""

    def on_unproved(self, peer_id: str, reason: str) -> None:
        """A peer that this node dialled failed before its Hello."""

    def on_peer_up(self, peer_id: str) -> None: ...

    def on_peer_down(self, peer_id: str) -> None: ...

    def on_peer_message(self, peer_id: str, message: peer_pb2.PeerMessage) -> None: ...

    def on_peer_part(self, peer_id: str) -> None:
        """Bytes of a large message arrived."""

    def on_peer_room(self, peer_id: str) -> None:
        """More can be sent in order."""


class Peers:
    """Keeps one connection to each other member. ``guarded`` runs every callback (see Engine)."""

    def __init__(
        self,
        *,
        node_id: str,
        members: Mapping[str, str],
        network: Network,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        draw: random.Random,
        listener: PeerListener,
        guarded: Callable[[Callable[[], None]], None],
        secret: Secret | None = None,
    ) -> None:
        """``secret``: the secret that peers must prove that they hold."""
        self._node_id = node_id
        self._addresses = dict(members)
        self._network = network
        self._loop = loop
        self._clock = clock
        self._draw = draw
        self._listener = listener
        self._guarded = guarded
        self._links: dict[str, Connection] = {}
        self._newcomers: list[Connection] = []
        self._lobby = Lobby()
        """The newcomers that this node did not dial itself."""
        self._secret = secret
        self._proves_nothing: set[str] = set()
        """Peers that did not answer a challenge: the next dial sends none if that is allowed."""
        self._said = Sparing(_logger, loop.time)
        self._dialled: dict[str, Callable[[], None]] = {}
        self._redial_s: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._walls_ms: dict[str, int] = {}
        """Per peer its wall clock as of its last message, less our monotonic clock."""
        self._low_disks: set[str] = set()
        self._stop_listening: Callable[[], None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen and dial. Raises OSError if this node cannot listen at its address."""
        self._stop_listening = await self._network.listen(
            self._addresses[self._node_id], lambda: self._newcomer(None)
        )
        self._sweeper = self._loop.call_later(SWEEP_S, self._guarded, self._sweep)
        for peer_id in sorted(self._addresses):
            if peer_id > self._node_id:
                self._dial(peer_id)

    def stop(self) -> None:
        """Close everything, sending first what was handed over."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for timer in self._timers.values():
            timer.cancel()
        for give_up in self._dialled.values():
            give_up()
        for connection in (*self._links.values(), *self._newcomers):
            connection.close()
        self._links.clear()
        self._newcomers.clear()

    # ------------------------------------------------------------------ speaking

    def connected(self, peer_id: str) -> bool:
        return peer_id in self._links

    def arrivals(self, peer_id: str) -> int:
        """How often anything arrived on the connection to it; 0 without one."""
        link = self._links.get(peer_id)
        return 0 if link is None else link.arrivals

    def wall_offset_ms(self, peer_id: str) -> int | None:
        """The peer's wall clock, extrapolated from its last message, less ours now."""
        wall_ms = self._walls_ms.get(peer_id)
        return None if wall_ms is None else wall_ms + self._running_ms() - self._clock.wall_ms()

    def note_wall_ms(self, peer_id: str, wall_ms: int) -> None:
        # Relative to our monotonic clock, not our wall clock: when the wall clock steps, the peers'
        # offsets must change at once, and not only with their next messages.
        self._walls_ms[peer_id] = wall_ms - self._running_ms()

    def disk_low(self, peer_id: str) -> bool:
        """Whether the peer last said that its disk is nearly full."""
        return peer_id in self._low_disks

    def note_disk_low(self, peer_id: str, low: bool) -> None:
        if low:
            self._low_disks.add(peer_id)
        else:
            self._low_disks.discard(peer_id)

    def _running_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)

    def backlog_bytes(self, peer_id: str) -> int:
        link = self._links.get(peer_id)
        return 0 if link is None else link.backlog_bytes

    def clear(self, peer_id: str) -> bool:
        """Whether what is sent in order now leaves at once."""
        link = self._links.get(peer_id)
        return link is not None and link.clear

    def send(self, peer_id: str, message: peer_pb2.PeerMessage) -> None:
        """Send ahead of queued frames; the message is lost if there is no connection."""
        link = self._links.get(peer_id)
        if link is not None:
            link.send(frames.encode(message))

    def send_in_order(self, peer_id: str, encoded: Sequence[bytes]) -> None:
        """Send frames after those sent in order before; they are lost if there is no connection."""
        link = self._links.get(peer_id)
        if link is not None:
            link.send_in_order(encoded)

    def refresh_hello(self) -> None:
        """Send every peer this node's Hello again."""
        for link in self._links.values():
            self._introduce(link, to_member=True)

    def part_with(self, peer_id: str) -> None:
        """End the connection: the peer must introduce itself again on a new one."""
        link = self._links.get(peer_id)
        if link is not None:
            link.abandon()
            self._lost(link)

    def refuse(self, peer_id: str, reason: str) -> None:
        """End the connection, and send the reason: the peer sent an impossible value."""
        link = self._links.get(peer_id)
        if link is not None:
            self._said.warning("a peer says what cannot be", {"peer": peer_id, "flaw": reason})
            self._dismiss(link, peer_pb2.Refusal(message=reason))

    # ------------------------------------------------------------------ making connections

    def _newcomer(self, expected_peer_id: str | None) -> Connection:
        connection = Connection(self, expected_peer_id)
        self._newcomers.append(connection)
        return connection

    def _dial(self, peer_id: str) -> None:
        connection = self._newcomer(peer_id)

        def failed(error: OSError) -> None:
            _logger.debug("dial failed", extra={"peer": peer_id, "error": str(error)})
            connection.closed = True
            self._forget(connection)
            self._redial(peer_id)

        self._dialled[peer_id] = self._network.dial(
            self._addresses[peer_id],
            connection,
            lambda error: self._guarded(lambda: failed(error)),
        )

    def _redial(self, peer_id: str, delay_s: float | None = None) -> None:
        if peer_id < self._node_id or self._stop_listening is None:
            return
        if delay_s is None:
            delay_s = self._redial_s.get(peer_id, REDIAL_MIN_S)
            self._redial_s[peer_id] = min(2 * delay_s, REDIAL_MAX_S)
        delay_s *= self._draw.uniform(0.75, 1.0)
        self._timers[peer_id] = self._loop.call_later(
            delay_s, self._guarded, lambda: self._dial(peer_id)
        )

    def _forget(self, connection: Connection) -> None:
        self._lobby.leave(connection)
        if connection in self._newcomers:
            self._newcomers.remove(connection)

    def _sweep(self) -> None:
        """Ping on connections where nothing was sent; close those that bring nothing."""
        self._sweeper = self._loop.call_later(SWEEP_S, self._guarded, self._sweep)
        ping = frames.encode(
            peer_pb2.PeerMessage(ping=peer_pb2.Ping(wall_ms=self._clock.wall_ms()))
        )
        for connection in (*self._links.values(), *self._newcomers):
            connection.silent_sweeps += 1
            silent = connection.silent_sweeps > SILENT_SWEEPS_MAX
            if connection.peer_id is None:
                connection.unknown_sweeps += 1
                if silent or connection.unknown_sweeps > HANDSHAKE_SWEEPS_MAX:
                    self._fail(connection, "did not say in time who it is")
            elif silent:
                _logger.warning("peer is silent", extra={"peer": connection.peer_id})
                connection.abandon()
                self._lost(connection)
            elif connection.quiet:
                connection.send(ping)
            connection.quiet = True

    # ------------------------------------------------------------------ ConnectionOwner

    def on_made(self, connection: Connection) -> None:
        self._guarded(lambda: self._made(connection))

    def on_greeting(self, connection: Connection, kind: int, payload: bytes) -> None:
        self._guarded(lambda: self._greeted(connection, kind, payload))

    def on_message(self, connection: Connection, message: peer_pb2.PeerMessage) -> None:
        self._guarded(lambda: self._received(connection, message))

    def on_part(self, connection: Connection) -> None:
        peer_id = connection.peer_id
        if peer_id is not None:
            self._guarded(lambda: self._listener.on_peer_part(peer_id))

    def on_room(self, connection: Connection) -> None:
        peer_id = connection.peer_id
        if peer_id is not None:
            self._guarded(lambda: self._listener.on_peer_room(peer_id))

    def on_damaged(self, connection: Connection, damage: str) -> None:
        self._guarded(lambda: self._damaged(connection, damage))

    def on_lost(self, connection: Connection) -> None:
        self._guarded(lambda: self._broken(connection))

    # ------------------------------------------------------------------ the handshake

    def _made(self, connection: Connection) -> None:
        peer_id = connection.expected_peer_id
        if peer_id is None:
            leaving = self._lobby.enter(connection)
            if leaving is not None:
                self._fail(leaving, "made place for another that has not said who it is")
            return
        secret = self._secret
        if secret is None or (peer_id in self._proves_nothing and not secret.required):
            self._introduce(connection, to_member=False)
            return
        connection.proof = proof = Dialling(
            own_id=self._node_id, peer_id=peer_id, keys=secret.keys, nonce=secret.nonce()
        )
        connection.send(frames.encode_proof(proof.challenge()))

    def _greeted(self, connection: Connection, kind: int, payload: bytes) -> None:
        if kind == frames.PROOF:
            try:
                self._prove(connection, payload)
            except HandshakeError as error:
                self._fail(connection, str(error))
            return
        proof, secret = connection.proof, self._secret
        if proof is None:
            if secret is not None and secret.required:
                self._fail(connection, "did not prove that it holds the cluster's secret")
                return
        elif not proof.done:
            self._fail(connection, "does not answer the challenge; has it cluster_secret_file?")
            return
        self._introduced(connection, payload)

    def _prove(self, connection: Connection, step: bytes) -> None:
        secret, proof = self._secret, connection.proof
        if secret is None:
            raise HandshakeError("proves a secret, and this node has no cluster_secret_file")
        if proof is None:
            if connection.expected_peer_id is not None:
                raise HandshakeError("spoke out of turn")
            connection.proof = proof = Accepting(
                own_id=self._node_id, keys=secret.keys, nonce=secret.nonce()
            )
        reply = proof.take(step)
        if reply is not None:
            connection.send(frames.encode_proof(reply))
        if not proof.done:
            return
        if isinstance(proof, Dialling):
            self._introduce(connection, to_member=True)
        elif proof.dialled_id != self._node_id:
            reason = f"{proof.dialled_id} was expected at this address, not {self._node_id}"
            self._dismiss(connection, peer_pb2.Refusal(message=reason))

    def _introduced(self, connection: Connection, payload: bytes) -> None:
        """A Hello came, or the acceptor's refusal of ours; nothing else is even parsed."""
        dialled = connection.expected_peer_id is not None
        if payload[:1] != _HELLO_FIRST and not (dialled and payload[:1] == _REFUSAL_FIRST):
            self._fail(connection, "sends a message before its sender's name")
            return
        try:
            message = peer_pb2.PeerMessage.FromString(payload)
        except DecodeError as error:
            self._fail(connection, f"sends what is no Hello: {error}")
            return
        kind = message.WhichOneof("body")
        if kind == "hello":
            self._judge(connection, message.hello)
        elif kind == "refusal" and dialled:
            self._refused(connection, message.refusal)
        else:
            self._fail(connection, "sends a message before its sender's name")

    def _introduce(self, connection: Connection, *, to_member: bool) -> None:
        hello = self._listener.own_hello(to_member=to_member)
        if connection.peer_id is None and connection.expected_peer_id is not None:
            hello.dialled = connection.expected_peer_id
        connection.send(frames.encode(peer_pb2.PeerMessage(hello=hello)))

    def _fail(self, connection: Connection, reason: str) -> None:
        """Close a connection that is not admitted, and send no reason."""
        peer_id = connection.expected_peer_id
        if peer_id is None:
            extra = {"address": connection.address, "reason": reason}
            self._said.warning("a stranger on the raft port", extra)
        else:
            self._listener.on_unproved(peer_id, reason)
        connection.abandon()
        self._lost(connection, redial_s=REFUSED_REDIAL_S)

    def _damaged(self, connection: Connection, damage: str) -> None:
        if connection.peer_id is None:
            self._fail(connection, f"sends what no peer sends: {damage}")
            return
        _logger.warning("damaged frame", extra={"peer": connection.peer_id, "damage": damage})
        self._lost(connection)

    def _broken(self, connection: Connection) -> None:
        peer_id, proof = connection.expected_peer_id, connection.proof
        unknown = connection.peer_id is None and connection.address
        if peer_id is not None and unknown:
            if proof is not None and not proof.done:
                reason = "ended the connection at the challenge: has it the same cluster secret?"
                self._listener.on_unproved(peer_id, reason)
            elif self._secret is None:
                reason = "ended the connection at the Hello: has it a cluster secret, unlike this?"
                self._listener.on_unproved(peer_id, reason)
        self._lost(connection)

    def _judge(self, connection: Connection, hello: peer_pb2.Hello) -> None:
        flaw = bounds.flaw_in_hello(hello)
        if flaw is not None:
            self._dismiss(connection, peer_pb2.Refusal(message=flaw))
            return
        proof = connection.proof
        expected = connection.peer_id or connection.expected_peer_id
        if expected is None and isinstance(proof, Accepting):
            expected = proof.peer_id
        refusal: peer_pb2.Refusal | None = None
        if expected is not None and expected != hello.node_id:
            refusal = peer_pb2.Refusal(
                message=f"{expected} was expected at this address, not {hello.node_id}"
            )
        else:
            refusal = self._listener.judge_hello(hello)
        if refusal is None and expected is None:
            refusal = self._astray(hello)
        if refusal is not None:
            self._dismiss(connection, refusal)
            return
        peer_id = hello.node_id
        self.note_wall_ms(peer_id, hello.wall_ms)
        if connection.peer_id is None:
            self._welcome(connection, peer_id)
        if not hello.brief:
            self._listener.on_hello(peer_id, hello)

    def _astray(self, hello: peer_pb2.Hello) -> peer_pb2.Refusal | None:
        """Refuse a peer that dialled another member: if admitted, it would lose its connection.

        An earlier version does not say whom it dialled: it meant this node if its id is lower.
        """
        wanted = hello.dialled or (self._node_id if hello.node_id < self._node_id else "another")
        if wanted == self._node_id:
            return None
        message = f"{wanted} was expected at this address, not {self._node_id}"
        return peer_pb2.Refusal(message=message)

    def _dismiss(self, connection: Connection, refusal: peer_pb2.Refusal) -> None:
        connection.send(frames.encode(peer_pb2.PeerMessage(refusal=refusal)))
        connection.close()
        self._lost(connection, redial_s=REFUSED_REDIAL_S)

    # ------------------------------------------------------------------ and after

    def _received(self, connection: Connection, message: peer_pb2.PeerMessage) -> None:
        peer_id = connection.peer_id
        assert peer_id is not None
        kind = message.WhichOneof("body")
        if kind == "hello":
            self._judge(connection, message.hello)
        elif kind == "refusal":
            self._refused(connection, message.refusal)
        elif kind == "ping":
            flaw = bounds.flaw_in_wall(message.ping.wall_ms)
            if flaw is not None:
                self.refuse(peer_id, flaw)
            else:
                self.note_wall_ms(peer_id, message.ping.wall_ms)
        else:
            self._listener.on_peer_message(peer_id, message)

    def _welcome(self, connection: Connection, peer_id: str) -> None:
        self._forget(connection)
        replaced = self._links.pop(peer_id, None)
        if replaced is not None:
            replaced.abandon()
            self._listener.on_peer_down(peer_id)
        connection.welcome(peer_id)
        self._links[peer_id] = connection
        self._redial_s.pop(peer_id, None)
        self._lobby.trust(connection.address)
        self._network.trust(connection.address)
        # So far the dialler's Hello may have lacked the members' disks; the acceptor sent none.
        self._introduce(connection, to_member=True)
        _logger.info("peer connected", extra={"peer": peer_id})
        self._listener.on_peer_up(peer_id)

    def _refused(self, connection: Connection, refusal: peer_pb2.Refusal) -> None:
        connection.close()
        refusal.message = bounds.shown(refusal.message)
        self._listener.on_refused(connection.peer_id or connection.expected_peer_id, refusal)
        self._lost(connection, redial_s=REFUSED_REDIAL_S)

    def _lost(self, connection: Connection, redial_s: float | None = None) -> None:
        self._forget(connection)
        peer_id = connection.peer_id
        if peer_id is not None and self._links.get(peer_id) is connection:
            del self._links[peer_id]
            _logger.info("peer disconnected", extra={"peer": peer_id})
            self._listener.on_peer_down(peer_id)
        dialled_id, proof = connection.expected_peer_id, connection.proof
        if dialled_id is None:
            return
        if peer_id is None and proof is not None and not proof.done:
            # The peer may not know proofs yet. If a dial without one fails, the next sends one.
            self._proves_nothing.add(dialled_id)
            if self._secret is not None and not self._secret.required:
                redial_s = None
        else:
            self._proves_nothing.discard(dialled_id)
        self._redial(dialled_id, redial_s)
