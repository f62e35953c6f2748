"""Checks a request's bytes against its limits before they are parsed.

Parsing makes an object of each item, so a limit that is checked on the parsed request comes too
late to save that cost. Here each field costs a step, and the walk ends at the first field beyond
its limit. A request of many bytes is walked, and then parsed, piece by piece, with the event loop's
other work in between.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tq.v1 import errors_pb2
from tq_cluster.core.model.operations import Refused
from tq_cluster.service.unknown import find_unknown, has_unknown
from tq_cluster.slices import slices

OTHERS_MAX = 1_000
"""How often fields without a limit of their own, also unknown ones, may occur in a message."""
INSIDE_BYTES = 64 << 10
"""An item of at least this size is walked. Smaller items are bounded by their number, and their
content is checked item by item once they are parsed.
"""
STEP_FIELDS = 1_000
"""How many fields are walked before the event loop gets a turn: about 1 ms."""
PIECE_BYTES = 256 << 10
"""How many bytes are parsed at a time: at most 4 ms, for the least favourable bytes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TAG_BYTES_MAX = 5
_VARINT_BYTES_MAX = 10
_CONTINUES = 0x80
_HIGH_BYTES = bytes(range(0x80, 0x100))
_SIZES = {
    FieldDescriptor.CPPTYPE_DOUBLE: 8,
    FieldDescriptor.CPPTYPE_FLOAT: 4,
}
_FIXED = {
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
}
_SCALARS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)

Parsed = TypeVar("Parsed", bound=Message)
Walk = Generator[None, None, int]
"""Pauses every ``STEP_FIELDS`` fields; returns how many fields it has walked."""


class RefusedRequestError(Exception):
    """The request is refused before it is parsed."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class FieldRule:
    """The rule for one field of a message."""

    path: str
    items_max: int | None = None
    packed_bytes: int | None = None
    """For a repeated number: the bytes of each in packed form, 0 for a varint; else None."""
    inside: MessageRules | None = None
    """For a field that holds messages."""

    @property
    def is_number(self) -> bool:
        """Whether the field is a number, so that each item may also occur unpacked."""
        return self.packed_bytes is not None


@dataclass(frozen=True, slots=True)
class MessageRules:
    """The rules of a message's fields by their numbers."""

    path: str
    fields: Mapping[int, FieldRule] = field(default_factory=dict)


def rules_of(message: Descriptor, limits: Mapping[str, int], path: str = "") -> MessageRules:
    """Return the rules of a request, whose limits have paths such as ``tasks.labels``.

    ValueError for a limit on a field that is missing or is not repeated.
    """
    fields: dict[int, FieldRule] = {}
    here = {name for name in limits if name.count(".") == path.count(".") + bool(path)}
    for each in message.fields:
        name = f"{path}.{each.name}" if path else each.name
        below = {key: most for key, most in limits.items() if key.startswith(f"{name}.")}
        inside = rules_of(each.message_type, below, name) if each.message_type is not None else None
        items_max = limits.get(name)
        if items_max is not None and not each.is_repeated:
            raise ValueError(f"{name} holds one item; a limit is for a repeated field")
        here.discard(name)
        fields[each.number] = FieldRule(name, items_max, _packed_bytes(each), inside)
    if here:
        raise ValueError(f"{message.full_name} has no field {', '.join(sorted(here))}")
    return MessageRules(path, fields)


def walk(raw: bytes, rules: MessageRules, cuts: list[int]) -> Walk:
    """Walk the fields of a request, and add to ``cuts`` the offsets at which it may be cut.

    Raises RefusedRequestError for a field that exceeds its limit, and for bytes that are not a
    message.
    """
    return _walk(raw, 0, len(raw), rules, cuts)


async def check(raw: bytes, rules: MessageRules) -> list[int]:
    """Walk a request with the event loop's other work in between; return where it may be cut."""
    cuts: list[int] = []
    await slices().through(walk(raw, rules, cuts))
    return cuts


async def parse(kind: type[Parsed], raw: bytes, cuts: list[int]) -> Parsed:
    """Parse a request that was checked, with the event loop's other work in between.

    DecodeError if it is not a message of its type. RefusedRequestError (UNSUPPORTED) if it has a
    field that its type does not have, at any depth: without the field it would be another request.
    """
    return await slices().through(_parsing(kind, raw, cuts))


def _parsing(kind: type[Parsed], raw: bytes, cuts: list[int]) -> Generator[None, None, Parsed]:
    """Parse in steps.

    Pieces of a message that are parsed one after the other into the same message make the same
    message as the whole; protobuf calls this "merge".
    """
    message = kind()
    if not cuts:
        message.ParseFromString(raw)
        if len(raw) > INSIDE_BYTES:
            yield
        if has_unknown(message, raw):
            raise RefusedRequestError((yield from find_unknown(message)))
        return message
    begin = 0
    for end in (*cuts, len(raw)):
        piece = raw[begin:end]
        message.MergeFromString(piece)
        yield
        part = kind.FromString(piece)
        yield
        if has_unknown(part, piece):
            raise RefusedRequestError((yield from find_unknown(message)))
        begin = end
        yield
    return message


def values(raw: bytes, number: int) -> list[bytes]:
    """Return all values of a length-delimited field of a request that was checked."""
    found: list[bytes] = []
    at, end = 0, len(raw)
    while at < end:
        tag, at = _varint(raw, at, end, _TAG_BYTES_MAX)
        begin, at = _value(raw, at, end, tag & 7)
        if tag == number << 3 | _BYTES:
            found.append(raw[begin:at])
    return found


def field_bytes(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field."""
    return b"".join((_encoded(number << 3 | _BYTES), _encoded(len(value)), value))


def _walk(raw: bytes, at: int, end: int, rules: MessageRules, cuts: list[int] | None) -> Walk:
    fields = rules.fields
    seen: dict[int, int] = {}
    others = walked = 0
    cut_at = at + PIECE_BYTES
    while at < end:
        if cuts is not None and at >= cut_at:
            cuts.append(at)
            cut_at = at + PIECE_BYTES
        walked += 1
        if not walked % STEP_FIELDS:
            yield
        # Most tags and lengths are one byte.
        tag = raw[at]
        at += 1
        if tag & _CONTINUES:
            tag, at = _varint(raw, at - 1, end, _TAG_BYTES_MAX)
        kind = tag & 7
        if kind == _BYTES and at < end and not raw[at] & _CONTINUES:
            begin = at + 1
            at = begin + raw[at]
            if at > end:
                raise _malformed(f"a field of {at - begin} bytes has {end - begin}")
        else:
            begin, at = _value(raw, at, end, kind)
        number = tag >> 3
        rule = fields.get(number)
        if rule is None or rule.items_max is None or not (kind == _BYTES or rule.is_number):
            others += 1
            if others > OTHERS_MAX:
                raise _too_many_fields(rules)
            if not number:
                raise _malformed("a field has the number 0")
        else:
            count = seen.get(number, 0)
            if kind == _BYTES and rule.packed_bytes is not None:
                count += _packed(raw, begin, at, rule.packed_bytes, rule.items_max - count)
            else:
                count += 1
            if count > rule.items_max:
                raise _too_many(rule.path, rule.items_max)
            seen[number] = count
        if rule is not None and rule.inside is not None and kind == _BYTES:
            if at - begin >= INSIDE_BYTES:
                walked += yield from _walk(raw, begin, at, rule.inside, None)
            elif rule.items_max is not None and tag < _CONTINUES and at < end and raw[at] == tag:
                most = rule.items_max + 1 - seen[number]
                at, more = _run(raw, at, min(end, cut_at), tag, most)
                seen[number] += more
                if seen[number] > rule.items_max:
                    raise _too_many(rule.path, rule.items_max)
    return walked


def _run(raw: bytes, at: int, end: int, tag: int, most: int) -> tuple[int, int]:
    """Walk over small fields of one tag of one byte, most of a large request; return how many."""
    count = 0
    last = end - 2
    while count < most and at < last and raw[at] == tag:
        size = raw[at + 1]
        next_at = at + 2 + size
        if size & _CONTINUES:
            if raw[at + 2] & _CONTINUES:
                break
            next_at = at + 3 + (size & 0x7F) + (raw[at + 2] << 7)
        if next_at > end:
            break
        at = next_at
        count += 1
    return at, count


def _value(raw: bytes, at: int, end: int, kind: int) -> tuple[int, int]:
    """Return where a field's value begins and ends."""
    if kind == _BYTES:
        size, begin = _varint(raw, at, end, _TAG_BYTES_MAX)
        if begin + size > end:
            raise _malformed(f"a field of {size} bytes has {end - begin}")
        return begin, begin + size
    if kind == _VARINT:
        return at, _varint(raw, at, end, _VARINT_BYTES_MAX)[1]
    size = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
    if not size:
        # Groups predate proto3: no request has one, and they nest without a length.
        raise _malformed(f"a field has the wire type {kind}")
    if at + size > end:
        raise _malformed(f"a field of {size} bytes has {end - at}")
    return at, at + size


def _varint(raw: bytes, at: int, end: int, bytes_max: int) -> tuple[int, int]:
    """Return a varint's value and where it ends."""
    value = 0
    for place in range(min(bytes_max, end - at)):
        byte = raw[at + place]
        value |= (byte & 0x7F) << 7 * place
        if not byte & _CONTINUES:
            return value, at + place + 1
    raise _malformed(f"a number is cut off, or has more than {bytes_max} bytes")


def _packed(raw: bytes, begin: int, end: int, item_bytes: int, room: int) -> int:
    """Return how many numbers are packed; if more than ``room``, some number above ``room``."""
    if item_bytes:
        return (end - begin) // item_bytes
    if end - begin > _VARINT_BYTES_MAX * room:
        return room + 1
    return len(raw[begin:end].translate(None, _HIGH_BYTES))


def _packed_bytes(described: FieldDescriptor) -> int | None:
    if not described.is_repeated or described.message_type or described.type in _SCALARS:
        return None
    return _SIZES.get(described.cpp_type, _FIXED.get(described.type, 0))


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= _CONTINUES:
        encoded.append(value & 0x7F | _CONTINUES)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _too_many(path: str, items_max: int) -> RefusedRequestError:
    return RefusedRequestError(
        Refused(
            reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
            message=f"{path} has over {items_max} items; at most {items_max} are taken",
            field=path,
            metadata={"limit": str(items_max), "actual": f"over {items_max}"},
        )
    )


def _too_many_fields(rules: MessageRules) -> RefusedRequestError:
    where = rules.path or "the request"
    return RefusedRequestError(
        Refused(
            reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
            message=f"{where} has over {OTHERS_MAX} fields besides those that may be many",
            field=rules.path,
            metadata={"limit": str(OTHERS_MAX), "actual": f"over {OTHERS_MAX}"},
        )
    )


def _malformed(why: str) -> RefusedRequestError:
    return RefusedRequestError(
        Refused(
            reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
            message=f"the request body could not be parsed: {why}",
        )
    )
