"""How the journal's records stand in its segment files, and what a damaged tail means.

A segment is a file: eight bytes of name, a format byte, then records. The first record is the
segment's header: the term and vote as of then and the log's last entry, so that the segments before
it can be dropped. A record is ``magic, crc, length, kind, payload``; the CRC covers all of it and
the place where it stands, so that a copy of a record inside a payload is no record.

Records written between two fsyncs are a batch, and the first of each is marked: it was written only
after everything before it was on disk.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

FORMAT = 1
PREAMBLE = b"tqjournl" + bytes([FORMAT])

_MAGIC = b"\xf7tq\x1e"
_HEAD = struct.Struct("<4sIIB")
_PLACE = struct.Struct("<QQIB")
_ENTRY = struct.Struct("<QQ")
_TRUNCATE = struct.Struct("<Q")
_VOTE = struct.Struct("<QB")
_HEADER = struct.Struct("<QBBQQ")
_FIRST_OF_BATCH = 0x80
_SECTOR_BYTES = 512

ENTRY_OVERHEAD_BYTES = _HEAD.size + _ENTRY.size
FIRST_WRITE_BYTES = len(PREAMBLE) + _HEAD.size + _HEADER.size + _VOTE.size
"""What a new journal writes before anything else: one segment, empty."""


class DamagedError(Exception):
    """A record is not what was written there."""


class Kind(enum.IntEnum):
    """What a record does to the log."""

    HEADER = 1
    ENTRY = 2
    TRUNCATE = 3
    VOTE = 4


@dataclass(frozen=True, slots=True)
class Vote:
    """The current term, and whom this node voted for in it."""

    term: int
    voted_for: str | None


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment begins with."""

    number: int
    fresh: bool
    """The log restarts here: the records in earlier segments are void."""
    base: tuple[int, int] | None
    """Index and term of the log's last entry; None when the log is empty."""
    vote: Vote


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log, without its command."""

    index: int
    term: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """The entries from ``index`` on are no longer in the log."""

    index: int


@dataclass(frozen=True, slots=True)
class Found:
    """A record, and where it stands."""

    offset: int
    size: int
    first_of_batch: bool
    record: Header | Entry | Truncate | Vote


def encode(
    segment: int, offset: int, kind: Kind, *payload: bytes, first_of_batch: bool
) -> list[bytes]:
    """Return a record that will stand at ``offset`` of ``segment``, in parts one after another.

    In parts, because an entry may be 10 MiB: each copy of it holds the event loop.
    """
    marked = kind | (_FIRST_OF_BATCH if first_of_batch else 0)
    length = sum(map(len, payload))
    crc = zlib.crc32(_PLACE.pack(segment, offset, length, marked))
    for part in payload:
        crc = zlib.crc32(part, crc)
    return [_HEAD.pack(_MAGIC, crc, length, marked), *payload]


def entry_head(index: int, term: int) -> bytes:
    """Return what stands before the command in the payload of an entry's record."""
    return _ENTRY.pack(index, term)


def truncate_payload(index: int) -> bytes:
    """Return the payload of the record that cuts the log before ``index``."""
    return _TRUNCATE.pack(index)


def vote_payload(vote: Vote) -> bytes:
    """Return the payload of a record of term and vote."""
    voted_for = vote.voted_for
    return _VOTE.pack(vote.term, voted_for is not None) + (voted_for or "").encode()


def header_payload(header: Header) -> bytes:
    """Return the payload of a segment's first record."""
    index, term = header.base or (0, 0)
    fixed = _HEADER.pack(header.number, header.fresh, header.base is not None, index, term)
    return fixed + vote_payload(header.vote)


def command_of(segment: int, offset: int, data: bytes) -> bytes:
    """Return the command of the entry whose record is ``data``, or raise DamagedError."""
    found = _decode(segment, offset, data, 0)
    if not isinstance(found.record, Entry) or found.size != len(data):
        raise DamagedError(f"no entry at offset {offset}")
    return data[ENTRY_OVERHEAD_BYTES:]


def scan(segment: int, data: bytes) -> Iterator[Found]:
    """Yield the records of a whole segment file; DamagedError at the first that is damaged.

    The preamble is the caller's to check.
    """
    offset = len(PREAMBLE)
    if offset == len(data):
        raise DamagedError("its header is missing")
    while offset < len(data):
        found = _decode(segment, offset, data, offset)
        yield found
        offset += found.size


def is_torn(segment: int, data: bytes, offset: int) -> bool:
    """Whether the damage at ``offset`` of the last segment can be an interrupted write.

    It can if no fsynced record follows. Records of the same, unfinished batch may follow if the
    disk wrote later sectors first: then sectors that were never written, zeros, lie between. All
    other damage is rot: the damaged bytes were on the disk once.
    """
    at = data.find(_MAGIC, offset + 1)
    while at >= 0:
        try:
            found = _decode(segment, at, data, at)
        except DamagedError:
            pass
        else:
            return not found.first_of_batch and _has_hole(data, offset, at)
        at = data.find(_MAGIC, at + 1)
    return True


def _has_hole(data: bytes, start: int, stop: int) -> bool:
    """Whether a whole sector, or the rest of the one where the damage begins, is zero."""
    while (end := (start // _SECTOR_BYTES + 1) * _SECTOR_BYTES) <= stop:
        if not any(data[start:end]):
            return True
        start = end
    return False


def _decode(segment: int, offset: int, data: bytes, at: int) -> Found:
    """Read the record at ``at`` of ``data`` that stands at ``offset`` of its segment."""
    if len(data) - at < _HEAD.size:
        raise DamagedError(f"the file ends inside the record at offset {offset}")
    magic, crc, length, marked = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    if magic != _MAGIC:
        raise DamagedError(f"no record begins at offset {offset}")
    if len(data) - start < length:
        raise DamagedError(f"the file ends inside the record at offset {offset}")
    payload = memoryview(data)[start : start + length]
    if crc != _crc(segment, offset, length, marked, payload):
        raise DamagedError(f"the record at offset {offset} fails its CRC")
    return Found(
        offset,
        _HEAD.size + length,
        bool(marked & _FIRST_OF_BATCH),
        _parse(marked & ~_FIRST_OF_BATCH, payload, offset),
    )


def _parse(kind: int, payload: memoryview, offset: int) -> Header | Entry | Truncate | Vote:
    if kind == Kind.ENTRY:
        return Entry(*_ENTRY.unpack_from(payload))
    if kind == Kind.VOTE:
        return _parse_vote(payload)
    if kind == Kind.TRUNCATE:
        return Truncate(*_TRUNCATE.unpack(payload))
    if kind == Kind.HEADER:
        number, fresh, has_base, index, term = _HEADER.unpack_from(payload)
        base = (index, term) if has_base else None
        return Header(number, bool(fresh), base, _parse_vote(payload[_HEADER.size :]))
    raise DamagedError(f"the record at offset {offset} is of unknown kind {kind}")


def _parse_vote(payload: memoryview) -> Vote:
    term, voted = _VOTE.unpack_from(payload)
    return Vote(term, bytes(payload[_VOTE.size :]).decode() if voted else None)


def _crc(segment: int, offset: int, length: int, kind: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(_PLACE.pack(segment, offset, length, kind)))
