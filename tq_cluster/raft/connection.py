"""One connection to one peer: frames in, frames out, and the queue of frames to send."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from tq.internal.v1 import peer_pb2
from tq_cluster.raft import frames
from tq_cluster.raft.handshake import Accepting, Dialling
from tq_cluster.raft.network import set_no_delay

_logger = logging.getLogger(__name__)

_WRITE_BUFFER_BYTES = 2 * frames.PIECE_BYTES
"""What asyncio may hold: little, so that a heartbeat waits behind little."""


class ConnectionOwner(Protocol):
    """The owner of connections. Its methods do not raise."""

    def on_made(self, connection: Connection) -> None: ...

    def on_greeting(self, connection: Connection, kind: int, payload: bytes) -> None:
        """A frame came before its sender was admitted; it is not parsed yet."""

    def on_message(self, connection: Connection, message: peer_pb2.PeerMessage) -> None: ...

    def on_part(self, connection: Connection) -> None:
        """Bytes arrived that complete no message yet."""

    def on_room(self, connection: Connection) -> None:
        """What waited in order has gone out."""

    def on_damaged(self, connection: Connection, damage: str) -> None:
        """The received bytes are not what a peer sends: the connection has been closed."""

    def on_lost(self, connection: Connection) -> None:
        """The connection is gone. Not called for one that was closed from here."""


class Connection(asyncio.Protocol):
    """Sends and receives frames. After ``close`` or ``abandon`` it reads nothing more."""

    def __init__(self, owner: ConnectionOwner, expected_peer_id: str | None) -> None:
        self.expected_peer_id = expected_peer_id
        """The peer that this node dialled; None if the other side dialled."""
        self.peer_id: str | None = None
        """The admitted peer; None until the handshake is done."""
        self.closed = False
        self.proof: Dialling | Accepting | None = None
        """The state of the proofs that both hold the secret; None while no proof has begun."""
        self.address = ""
        """The host at the other end; empty until the connection is made."""
        self.silent_sweeps = 0
        self.unknown_sweeps = 0
        """Sweeps so far while no peer is admitted; arriving bytes do not reset the count."""
        self.arrivals = 0
        """How often the network brought bytes."""
        self.quiet = True
        """Nothing was sent since the last sweep."""
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._decoder = frames.Decoder()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False

    def welcome(self, peer_id: str) -> None:
        """The handshake is done."""
        self.peer_id = peer_id
        self._decoder.takes_pieces = True

    # ------------------------------------------------------------------ out

    @property
    def backlog_bytes(self) -> int:
        """The bytes that were sent here and have not reached the operating system."""
        buffered = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._waiting_bytes + buffered

    @property
    def clear(self) -> bool:
        """Whether what is sent now leaves at once."""
        return not self._waiting and not self._paused

    def send(self, encoded: Sequence[bytes]) -> None:
        """Send now, before anything that waits: for messages whose order does not matter."""
        if self.closed or self._transport is None:
            return
        self.quiet = False
        for frame in encoded:
            self._transport.write(frame)

    def send_in_order(self, encoded: Sequence[bytes]) -> None:
        """Send after everything that was sent in order before."""
        if self.closed or self._transport is None:
            return
        self.quiet = False
        self._waiting.extend(encoded)
        self._waiting_bytes += sum(map(len, encoded))
        self._feed()

    def _feed(self) -> None:
        assert self._transport is not None
        while self._waiting and not self._paused:
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame)
            self._transport.write(frame)

    def close(self) -> None:
        """Send what has been handed over, then close; read nothing more."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def abandon(self) -> None:
        """Close at once; read nothing more."""
        self.closed = True
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.closed:
            transport.abort()
            return
        peer = transport.get_extra_info("peername")
        try:
            set_no_delay(transport)
        except OSError:
            peer = None
        if not peer:
            # The connection was reset already. Its address is unknown, so nothing is read from it.
            # `connection_lost` follows.
            transport.abort()
            return
        self.address = str(peer[0])
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._owner.on_made(self)

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self.silent_sweeps = 0
        self.arrivals += 1
        try:
            if self.peer_id is None:
                for kind, payload in self._decoder.greet(data):
                    self._owner.on_greeting(self, kind, payload)
                    if not self._readable():
                        return
                    if self._admitted():
                        break
                if not self._admitted():
                    return
                data = b""
            for message in self._decoder.feed(data):
                self._owner.on_message(self, message)
                if not self._readable():
                    return
        except (frames.DamagedFrameError, DecodeError) as error:
            self.abandon()
            self._owner.on_damaged(self, str(error))
            return
        if self._decoder.inside_large_message:
            self._owner.on_part(self)

    # Methods, because a type checker assumes that an attribute keeps its last value.

    def _readable(self) -> bool:
        return not self.closed

    def _admitted(self) -> bool:
        return self.peer_id is not None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self.closed:
            return
        self._feed()
        if self.clear:
            self._owner.on_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        _logger.debug("connection lost", extra={"peer": self.peer_id, "error": str(exc or "")})
        self._owner.on_lost(self)
