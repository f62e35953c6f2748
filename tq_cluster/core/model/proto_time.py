"""Convert instants and lengths between their public form and milliseconds."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_NANOS_A_MS = 1_000_000


def to_ms(span: Duration | Timestamp) -> int:
    """Return whole milliseconds, rounded down."""
    return span.seconds * 1000 + span.nanos // _NANOS_A_MS


def to_ms_up(span: Duration | Timestamp) -> int:
    """Return whole milliseconds, rounded up: never earlier than requested."""
    return span.seconds * 1000 - (-span.nanos // _NANOS_A_MS)


def put_ms(span: Duration | Timestamp, ms: int) -> None:
    """Set a message's field to ``ms``, present even when zero."""
    seconds, rest = divmod(ms, 1000)
    span.seconds = seconds
    span.nanos = rest * _NANOS_A_MS
    if not ms:
        span.SetInParent()


def timestamp(ms: int) -> Timestamp:
    """Return the instant as a message."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * _NANOS_A_MS)


def duration(ms: int) -> Duration:
    """Return the length as a message."""
    return Duration(seconds=ms // 1000, nanos=ms % 1000 * _NANOS_A_MS)
