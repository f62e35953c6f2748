"""The raft port of one node without a socket or a loop, fed with bytes that a fuzzer makes up.

An input is a scene and a script. The scene says which peer dialled, whether the cluster has a
secret, and whether this node belongs to a cluster yet. Each step of the script is raw bytes, or a
frame around them with the right checksum, or the Hello of a true peer with some of its bytes
changed. So a fuzzer need not guess checksums and random ids to reach the code behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final, cast

from tests.simulation.world.host import DrawnSecret, Identity
from tq.internal.v1 import peer_pb2
from tq_cluster.raft import bounds, frames
from tq_cluster.raft.formation import Formation
from tq_cluster.raft.handshake import Dialling, HandshakeError
from tq_cluster.raft.identity import MemberList
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.membership import MemberDisks
from tq_cluster.raft.peers import Peers

MEMBERS: Final = ("n1", "n2", "n3")
CLUSTER_ID: Final = "5ca1ab1e5ca1ab1e"
DISKS: Final = {name: f"{number:016x}" for number, name in enumerate(MEMBERS, 0xD15C)}
KEY: Final = b"a secret that no fuzzer comes upon"
BUFFER_BYTES_MAX: Final = frames.GREETING_BYTES_MAX + 16
STEPS_MAX: Final = 32

_DIALLED, _SECRET, _OPTIONAL, _EMPTY = 1, 2, 4, 8


class FuzzError(AssertionError):
    """The port did something that it must never do."""


class _Transport(asyncio.Transport):
    def __init__(self, address: str) -> None:
        super().__init__()
        self.sent = bytearray()
        self.ended = False
        self._address = address

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: there is no buffer."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self._address, 7101) if name == "peername" else default


class _Timer:
    def cancel(self) -> None:
        """Do nothing: the timer never fires."""


class _Loop:
    """A loop whose time stands still."""

    def time(self) -> float:
        return 1000.0

    def call_later(self, *_: object) -> _Timer:
        return _Timer()


class _Network:
    def dial(self, *_: object) -> Callable[[], None]:
        return _Timer().cancel

    def trust(self, host: str) -> None:
        """Do nothing: nothing is limited here."""


class _Clock:
    def monotonic_s(self) -> float:
        return 1000.0

    def wall_ms(self) -> int:
        return 1_700_000_000_000


class _Journal:
    first_index = last_index = 1

    def entry(self, index: int) -> Any:  # noqa: ANN401 - there is none
        raise AssertionError(index)

    def term_at(self, index: int) -> int | None:
        return 0 if index == 1 else None


class Port:
    """The port of node n2."""

    def __init__(self, scene: int) -> None:
        self.formed = not scene & _EMPTY
        self.proves = bool(scene & _SECRET) and not scene & _OPTIONAL
        self.proved = False
        """Whether the dialler may have proved the secret: the script held it for a step."""
        self.messages: list[peer_pb2.PeerMessage] = []
        self.hellos: list[peer_pb2.Hello] = []
        draw = random.Random(scene)
        identity = Identity("n2", DISKS["n2"])
        if self.formed:
            identity.join(CLUSTER_ID, MemberList(incarnations=DISKS))
        membership = (CLUSTER_ID, DISKS) if self.formed else None
        journal = cast("LogJournal", _Journal())
        self.formation = Formation(
            identity=identity,
            member_ids=MEMBERS,
            pristine=lambda: not self.formed,
            member_disks=MemberDisks(journal, lambda: 1, lambda: membership),
            cluster_version=lambda: 0,
            clock=_Clock(),
            draw=draw,
            news=lambda: None,
        )
        secret = DrawnSecret(draw, (KEY,), required=self.proves) if scene & _SECRET else None
        self.peers = Peers(
            node_id="n2",
            members={name: f"{name}:7101" for name in MEMBERS},
            network=cast("Any", _Network()),
            loop=cast("Any", _Loop()),
            clock=_Clock(),
            draw=draw,
            listener=self,
            guarded=lambda function: function(),
            secret=secret,
        )
        self.peers._stop_listening = _Timer().cancel
        self.dialled = bool(scene & _DIALLED)
        self.peer_id = "n3" if self.dialled else "n1"
        self.connection = self.peers._newcomer("n3" if self.dialled else None)
        self.transport = _Transport("10.0.0.9")
        self.connection.connection_made(self.transport)

    def take(self, data: bytes) -> None:
        """Let bytes arrive, and check their effect."""
        if self.transport.ended:
            return
        self.connection.data_received(data)
        connection, decoder = self.connection, self.connection._decoder
        stranger = connection.peer_id is None and not connection.closed
        if stranger and (len(decoder._buffer) > BUFFER_BYTES_MAX or decoder._pieces):
            raise FuzzError(f"{len(decoder._buffer)} bytes are kept of a stranger")
        if stranger and self.messages:
            raise FuzzError("a stranger's message was listened to")
        greeted = any(said is not None and said.HasField("hello") for said in sent(self.transport))
        if not self.dialled and connection.peer_id is None and greeted:
            raise FuzzError("a stranger was told who this is")
        if self.proves and not self.proved and (connection.peer_id is not None or self.hellos):
            raise FuzzError("one that proved nothing was admitted")
        if len(self.peers._newcomers) > 1 or len(self.peers._lobby) > 1:
            raise FuzzError("a connection is kept twice")

    # ------------------------------------------------------------------ PeerListener

    def own_hello(self, *, to_member: bool) -> peer_pb2.Hello:
        return self.formation.own_hello(to_member=to_member)

    def judge_hello(self, hello: peer_pb2.Hello) -> peer_pb2.Refusal | None:
        refusal = self.formation.judge(hello)
        told = {disk for disk in DISKS.values() if refusal is not None and disk in refusal.message}
        if any(disk.encode() not in hello.SerializeToString() for disk in told):
            raise FuzzError(f"a refusal tells a disk: {refusal}")
        return refusal

    def on_hello(self, peer_id: str, hello: peer_pb2.Hello) -> None:
        if self.formed and (hello.incarnation != DISKS[peer_id] or hello.cluster_id not in KNOWN):
            raise FuzzError(f"{hello} was admitted")
        self.hellos.append(hello)
        self.formation.on_hello(peer_id, hello)

    def on_refused(self, peer_id: str | None, refusal: peer_pb2.Refusal) -> None:
        if peer_id is None:
            raise FuzzError("a refusal from one who is not known counts")
        self.formation.on_refused(peer_id, refusal)

    def on_unproved(self, peer_id: str, reason: str) -> None:
        self.formation.note_unproved(peer_id, reason)

    def on_peer_up(self, peer_id: str) -> None:
        """A member has connected."""

    def on_peer_down(self, peer_id: str) -> None:
        self.formation.on_peer_down(peer_id)

    def on_peer_message(self, peer_id: str, message: peer_pb2.PeerMessage) -> None:
        here = bounds.Standing(term=7, last_index=9, leads=True, latest_round=5)
        flaw = bounds.flaw_in(message, here)
        if flaw is not None:
            self.peers.refuse(peer_id, flaw)
            return
        self.messages.append(message)

    def on_peer_part(self, peer_id: str) -> None:
        """A part of a large message has arrived."""

    def on_peer_room(self, peer_id: str) -> None:
        """Do nothing: there is always room."""


KNOWN: Final = (CLUSTER_ID, "")


def sent(transport: _Transport) -> list[peer_pb2.PeerMessage | None]:
    """The messages that were sent; None for a step of the proof."""
    found: list[peer_pb2.PeerMessage | None] = []
    for kind, payload in frames.Decoder().greet(bytes(transport.sent)):
        whole = kind == frames.MESSAGE
        found.append(peer_pb2.PeerMessage.FromString(payload) if whole else None)
    return found


def true_hello(port: Port) -> bytes:
    """The payload of a Hello that the port accepts from the peer."""
    hello = peer_pb2.Hello(
        format=frames.FORMAT,
        cluster_version=2,
        cluster_id=CLUSTER_ID if port.formed else "",
        node_id=port.peer_id,
        incarnation=DISKS[port.peer_id],
        pristine=not port.formed,
        member_ids=MEMBERS,
        wall_ms=1_700_000_000_000,
    )
    return peer_pb2.PeerMessage(hello=hello).SerializeToString()


def _changed(payload: bytes, changes: bytes) -> bytes:
    """``payload`` with a byte changed for every two bytes of ``changes``."""
    changed = bytearray(payload)
    for at, value in zip(changes[::2], changes[1::2], strict=False):
        changed[at % len(changed)] ^= value
    return bytes(changed)


def _true_step(port: Port, key: bytes, changes: bytes) -> bytes:
    """The next message of a dialler that holds ``key``, with some bytes changed."""
    dialler = Dialling(own_id="n1", peer_id="n2", keys=[key], nonce=bytes(32))
    heard = list(frames.Decoder().greet(bytes(port.transport.sent)))
    if not heard:
        return _changed(dialler.challenge(), changes)
    with contextlib.suppress(HandshakeError):
        return _changed(dialler.take(heard[0][1]) or b"\0", changes)
    return b""


def play(data: bytes) -> Port:
    """Play an input to its end; raise FuzzError, or the port's error, if the port is at fault."""
    port = Port(data[0] & 15 if data else 0)
    at = 1
    for _ in range(STEPS_MAX):
        if at + 2 > len(data) or port.transport.ended:
            break
        step, length = data[at], data[at + 1] * (17 if data[at] & 64 else 1)
        payload = data[at + 2 : at + 2 + length]
        at += 2 + length
        match step & 7:
            case 0:
                arriving = payload
            case 1:
                arriving = frames._frame(frames.MESSAGE, payload)
            case 2:
                arriving = frames._frame(frames.PROOF, payload)
            case 3 | 4:
                arriving = frames._frame(frames.MESSAGE, _changed(true_hello(port), payload))
            case 5:
                # With another secret than this node's: the form is right, but it proves nothing.
                arriving = frames._frame(frames.PROOF, _true_step(port, b"another secret", payload))
            case 6:
                piece = 1 if step & 128 else 2
                arriving = frames._frame(frames.MESSAGE | piece, payload)
            case _:
                true_step = _true_step(port, KEY, b"")
                said = _true_step(port, KEY, payload)
                port.proved = port.proved or said == true_step
                arriving = frames._frame(frames.PROOF, said)
        if step & 8 and len(arriving) > 1:
            cut = 1 + step % (len(arriving) - 1)
            port.take(arriving[:cut])
            arriving = arriving[cut:]
        port.take(arriving)
    return port
