"""Messages on a byte stream: each is its length, in four bytes, then its own bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from google.protobuf.message import Message

_LENGTH = struct.Struct(">I")

AnyMessage = TypeVar("AnyMessage", bound="Message")


def encode(message: Message) -> bytes:
    """Make the frame that carries ``message``."""
    body = message.SerializeToString()
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[AnyMessage]):
    """Assembles messages from the pieces of a stream."""

    def __init__(self, message_type: type[AnyMessage]) -> None:
        self._message_type = message_type
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[AnyMessage]:
        """Take the next piece of the stream; yields each message that it completes."""
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, at)
                end = at + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                with memoryview(self._buffer) as view:
                    message = self._message_type.FromString(bytes(view[at + _LENGTH.size : end]))
                at = end
                yield message
        finally:
            del self._buffer[:at]
