"""Messages as bytes: frames with a length and a checksum; a large message in pieces.

A frame is ``format and kind (1 byte), length (4), CRC32 of kind and payload (4), payload``,
big-endian. The pieces of a large message follow each other, but whole messages may stand between
them: that is how a heartbeat overtakes an entry of 10 MiB.

Until its sender is admitted a connection carries greetings alone: short frames that are not parsed
here, a Hello or a step of the proof that comes before it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

from tq.internal.v1 import peer_pb2

FORMAT = 1
PIECE_BYTES = 128 * 1024
MESSAGE_BYTES_MAX = 256 * 1024 * 1024
"""No correct peer sends more."""

GREETING_BYTES_MAX = 8 * 1024
"""A Hello of seven members has less than 4 KiB."""

_HEADER = struct.Struct(">BII")
_LENGTH_DELIMITED = 2
_MORE = 0x80
"""In a protobuf varint: seven bits a byte, and this one if another byte follows."""
_WHOLE = FORMAT << 4
_PIECE = _WHOLE | 1
_LAST_PIECE = _WHOLE | 2
MESSAGE = _WHOLE
"""The kind of a frame that holds a whole PeerMessage."""
PROOF = _WHOLE | 3
"""The kind of a frame that holds a step of the handshake before the first Hello."""


class DamagedFrameError(Exception):
    """The received bytes are not what a peer sends: the connection is of no further use."""


def encode(message: peer_pb2.PeerMessage) -> list[bytes]:
    """The message's frames: one, or as many as its pieces."""
    payload = message.SerializeToString()
    if len(payload) <= PIECE_BYTES:
        return [_frame(_WHOLE, payload)]
    return _cut([payload])


def encode_append(append: peer_pb2.Append, entries: Sequence[tuple[bytes, int]]) -> list[bytes]:
    """Return the frames of an append to which entries, (command, term), are added.

    A large append is encoded by hand: an entry may be 10 MiB, and protobuf would copy it twice
    before it is cut into pieces.
    """
    if sum(len(command) for command, _ in entries) <= PIECE_BYTES:
        message = peer_pb2.PeerMessage(append=append)
        for command, term in entries:
            message.append.entries.add(term=term, command=command)
        return encode(message)
    parts = [append.SerializeToString()]
    for command, term in entries:
        head = peer_pb2.LogEntry(term=term).SerializeToString()
        head += _tagged(peer_pb2.LogEntry.COMMAND_FIELD_NUMBER, len(command))
        entry_bytes = len(head) + len(command)
        parts += [_tagged(peer_pb2.Append.ENTRIES_FIELD_NUMBER, entry_bytes), head, command]
    size = sum(map(len, parts))
    return _cut([_tagged(peer_pb2.PeerMessage.APPEND_FIELD_NUMBER, size), *parts])


def _tagged(field: int, length: int) -> bytes:
    """Return protobuf's tag and length for a field of so many bytes."""
    written = bytearray([field << 3 | _LENGTH_DELIMITED])
    while length >= _MORE:
        written.append(length % _MORE | _MORE)
        length //= _MORE
    written.append(length)
    return bytes(written)


def _cut(parts: Sequence[bytes]) -> list[bytes]:
    """Return the frames of a large message whose bytes are those of ``parts``."""
    cut: list[list[memoryview]] = [[]]
    room = PIECE_BYTES
    for whole in parts:
        part = memoryview(whole)
        start = 0
        while start < len(part):
            if not room:
                cut.append([])
                room = PIECE_BYTES
            some = part[start : start + room]
            cut[-1].append(some)
            room -= len(some)
            start += len(some)
    last = len(cut) - 1
    return [
        _frame(_LAST_PIECE if place == last else _PIECE, *piece) for place, piece in enumerate(cut)
    ]


def encode_proof(step: bytes) -> list[bytes]:
    """Return the frame of a step of the handshake."""
    return [_frame(PROOF, step)]


def _frame(kind: int, *payload: bytes | memoryview) -> bytes:
    crc = kind
    for part in payload:
        crc = zlib.crc32(part, crc)
    return b"".join((_HEADER.pack(kind, sum(map(len, payload)), crc), *payload))


def _checked(kind: int, payload: bytes, checksum: int) -> bytes:
    if zlib.crc32(payload, kind) != checksum:
        raise DamagedFrameError(f"checksum of {len(payload)} bytes")
    return payload


class Decoder:
    """Turns a stream of bytes back into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self.takes_pieces = False
        """Whether large messages are taken: only from admitted peers."""

    @property
    def inside_large_message(self) -> bool:
        """Whether part of a message is here and the rest still on its way."""
        return bool(self._pieces) or len(self._buffer) > _HEADER.size

    def greet(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The kind and payload of each frame that ``data`` completes, from a sender not admitted.

        Stop at the one that admits it, and go on with ``feed``. Raises DamagedFrameError.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEADER.size:
            kind, length, checksum = _HEADER.unpack_from(buffer)
            if kind >> 4 != FORMAT:
                raise DamagedFrameError(f"format {kind >> 4}, this node speaks {FORMAT}")
            if kind not in {MESSAGE, PROOF} or length > GREETING_BYTES_MAX:
                raise DamagedFrameError(f"a greeting of kind {kind:#x}, {length} bytes")
            end = _HEADER.size + length
            if len(buffer) < end:
                return
            payload = bytes(memoryview(buffer)[_HEADER.size : end])
            del buffer[:end]
            yield kind, _checked(kind, payload, checksum)

    def feed(self, data: bytes) -> Iterator[peer_pb2.PeerMessage]:
        """The messages that ``data`` completes. Raises DamagedFrameError."""
        buffer = self._buffer
        if not buffer and len(data) >= _HEADER.size:
            # The usual case: a small message came whole and alone.
            kind, length, checksum = _HEADER.unpack_from(data)
            if kind == _WHOLE and len(data) == _HEADER.size + length:
                yield peer_pb2.PeerMessage.FromString(
                    _checked(kind, data[_HEADER.size :], checksum)
                )
                return
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _HEADER.size:
                kind, length, checksum = _HEADER.unpack_from(buffer, start)
                self._check_header(kind, length)
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    break
                payload = bytes(memoryview(buffer)[start + _HEADER.size : end])
                start = end
                whole = self._assemble(kind, _checked(kind, payload, checksum))
                if whole is not None:
                    yield peer_pb2.PeerMessage.FromString(whole)
        finally:
            del buffer[:start]

    def _check_header(self, kind: int, length: int) -> None:
        if kind >> 4 != FORMAT:
            raise DamagedFrameError(f"format {kind >> 4}, this node speaks {FORMAT}")
        if kind not in {_WHOLE, _PIECE, _LAST_PIECE} or length > PIECE_BYTES:
            raise DamagedFrameError(f"kind {kind:#x}, {length} bytes")
        if kind != _WHOLE and not self.takes_pieces:
            raise DamagedFrameError("a large message from a peer that has not said who it is")

    def _assemble(self, kind: int, payload: bytes) -> bytes | None:
        if kind == _WHOLE:
            return payload
        self._pieces.append(payload)
        self._pieces_bytes += len(payload)
        if self._pieces_bytes > MESSAGE_BYTES_MAX:
            raise DamagedFrameError(f"{self._pieces_bytes} bytes in pieces without an end")
        if kind == _PIECE:
            return None
        whole = b"".join(self._pieces)
        self._pieces.clear()
        self._pieces_bytes = 0
        return whole
