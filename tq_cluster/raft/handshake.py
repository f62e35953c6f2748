"""The handshake before the first Hello: two nodes prove that they hold the cluster's secret.

    dialler    challenge: a nonce, who it is, whom it dialled
    acceptor   answer: a nonce, and nothing else
    dialler    proof: a MAC under each of its secrets
    acceptor   welcome: a MAC under the secret that the proof was made with

A MAC covers this protocol's name, the sender's role, both ids and both nonces. So a proof is of no
use on another connection, to another node, or sent back to its maker. It proves who opened the
connection, not who sends each byte on it: the stream is neither encrypted nor signed.

This module uses no socket: it takes received messages and returns the messages to send.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from tq_cluster.raft import bounds
from tq_cluster.raft.secret import LINES_MAX, NONCE_BYTES

_PROTOCOL: Final = b"tq raft handshake 1"
_MAC_BYTES: Final = 32

_CHALLENGE: Final = b"\x01"
_ANSWER: Final = b"\x02"
_PROOF: Final = b"\x03"
_WELCOME: Final = b"\x04"
STEP_BYTES_MAX: Final = 1 + NONCE_BYTES + 2 * (1 + bounds.WORD_CHARS_MAX)
"""The longest message, the challenge."""


class HandshakeError(Exception):
    """The other side did not prove that it may speak; the reason is for this node's operator."""


class Dialling:
    """The side that opened the connection."""

    def __init__(self, *, own_id: str, peer_id: str, keys: Sequence[bytes], nonce: bytes) -> None:
        self._ids = (own_id, peer_id)
        self._keys = keys
        self._nonce = nonce
        self._transcript = b""
        self.done = False
        """The other side has proved that it is a member."""

    def challenge(self) -> bytes:
        """Return what to say first."""
        return _CHALLENGE + self._nonce + _joined(*(each.encode() for each in self._ids))

    def take(self, message: bytes) -> bytes | None:
        """Take the acceptor's next message; return what to send, if anything."""
        if self.done:
            raise HandshakeError("spoke out of turn")
        if not self._transcript:
            if not _is_of(message, _ANSWER, NONCE_BYTES):
                raise HandshakeError("did not answer the challenge")
            self._transcript = _transcript(*self._ids, self._nonce, message[1:])
            macs = [_mac(key, b"dialler", self._transcript) for key in self._keys]
            return _PROOF + b"".join(macs)
        if not _is_of(message, _WELCOME, _MAC_BYTES) or not any(
            hmac.compare_digest(_mac(key, b"acceptor", self._transcript), message[1:])
            for key in self._keys
        ):
            raise HandshakeError("did not prove that it holds the cluster's secret")
        self.done = True
        return None


class Accepting:
    """The side that was dialled."""

    def __init__(self, *, own_id: str, keys: Sequence[bytes], nonce: bytes) -> None:
        self._own_id = own_id
        self._keys = keys
        self._nonce = nonce
        self._transcript = b""
        self.peer_id: str | None = None
        """The dialler's id: claimed at first, proved once ``done``."""
        self.dialled_id: str | None = None
        """The node that the dialler wanted to reach."""
        self.done = False

    def take(self, message: bytes) -> bytes:
        """Take the dialler's next message; return what to send."""
        if self.done:
            raise HandshakeError("spoke out of turn")
        if not self._transcript:
            return self._answer(message)
        macs, rest = divmod(len(message) - 1, _MAC_BYTES)
        if message[:1] != _PROOF or rest or not 1 <= macs <= LINES_MAX:
            raise HandshakeError("did not prove anything")
        proofs = [message[1 + at * _MAC_BYTES :][:_MAC_BYTES] for at in range(macs)]
        for key in self._keys:
            expected = _mac(key, b"dialler", self._transcript)
            if any(hmac.compare_digest(expected, proof) for proof in proofs):
                self.done = True
                return _WELCOME + _mac(key, b"acceptor", self._transcript)
        raise HandshakeError("did not prove that it holds the cluster's secret")

    def _answer(self, message: bytes) -> bytes:
        head = 1 + NONCE_BYTES
        ids = _parted(message[head:])
        if message[:1] != _CHALLENGE or ids is None:
            raise HandshakeError("did not begin with a challenge")
        # The ids are judged only after the proof: an answer that depends on them would leak them.
        self.peer_id, self.dialled_id = ids
        self._transcript = _transcript(*ids, message[1:head], self._nonce)
        return _ANSWER + self._nonce


def _is_of(message: bytes, kind: bytes, size: int) -> bool:
    return message[:1] == kind and len(message) == 1 + size


def _transcript(dialler_id: str, acceptor_id: str, challenge: bytes, answer: bytes) -> bytes:
    return _joined(dialler_id.encode(), acceptor_id.encode(), challenge, answer)


def _mac(key: bytes, speaker: bytes, transcript: bytes) -> bytes:
    return hmac.new(key, _joined(_PROTOCOL, speaker) + transcript, hashlib.sha256).digest()


def _joined(*fields: bytes) -> bytes:
    """Join fields unambiguously, each after its length. None is longer than 255 bytes."""
    return b"".join(bytes([len(field)]) + field for field in fields)


def _parted(data: bytes) -> tuple[str, str] | None:
    """Return the two ids of a challenge; None: it holds something else."""
    if not data or len(data) < 1 + data[0] + 1:
        return None
    end = 1 + data[0]
    first, second = data[1:end], data[end + 1 :]
    if len(second) != data[end] or not (first.isascii() and second.isascii()):
        return None
    ids = first.decode(), second.decode()
    return ids if all(map(bounds.is_name, ids)) else None
