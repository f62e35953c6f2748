"""Requests that no honest caller sends: as large as the wire takes, in every form of a type.

They are made from the request's descriptor, so that a new field is swept, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

UNKNOWN = 1_000
"""A field number that no message has."""
NESTED_MAX = 3
"""The depth to which repeated fields of a request are searched."""
_BYTES, _GROUP = 2, 3
_LENGTH_MAX = 5
"""The maximum number of bytes of a length."""

Make = Callable[[int], bytes]
"""A request of about so many bytes."""


def shapes(request: Descriptor) -> Iterator[tuple[str, Make]]:
    """Yield the name of each illegal request of this type, and the function that makes it."""
    yield "one unknown field", lambda size: _sized(UNKNOWN, b"x", size)
    yield "unknown fields", lambda size: _times(_tag(UNKNOWN, 0) + b"\x01", size)
    yield "groups in groups", lambda size: _times(_tag(UNKNOWN, _GROUP), size)
    yield "no message", lambda size: b"\xff" * size
    yield from _of_fields(request, depth=1)


def _of_fields(message: Descriptor, depth: int) -> Iterator[tuple[str, Make]]:
    giant = False
    for field in message.fields:
        kind = field.type
        if field.is_repeated:
            yield from _of_repeated(field)
        elif kind in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            if depth == 1 or not giant:
                giant = True
                yield f"a giant {field.name}", _giant(field)
        elif kind != FieldDescriptor.TYPE_MESSAGE:
            yield f"{field.name} again and again", _again(_tag(field.number, 0) + b"\x01")
        inner = _ours(field)
        if inner is not None and depth < NESTED_MAX:
            for name, make in _of_fields(inner, depth + 1):
                yield f"{field.name}: {name}", _inside(field, make)


def _of_repeated(field: FieldDescriptor) -> Iterator[tuple[str, Make]]:
    message = field.message_type
    if field.enum_type is not None:
        last = field.enum_type.values[-1].number
        yield f"{field.name}, packed", lambda size: _sized(field.number, bytes([last]), size)
        yield f"{field.name}, one by one", _again(_tag(field.number, 0) + bytes([last]))
    elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        yield f"empty {field.name}", _again(_tag(field.number, _BYTES) + b"\x00")
        yield f"different {field.name}", lambda size: _numbered(field.number, b"", size)
    elif message is not None and message.GetOptions().map_entry:
        yield f"different {field.name}", lambda size: _numbered(field.number, b"\x0a\x07", size)
    elif message is not None:
        yield f"empty {field.name}", _again(_tag(field.number, _BYTES) + b"\x00")
    else:
        yield f"{field.name}, packed", lambda size: _sized(field.number, b"\x01", size)


def _ours(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of a field that holds a message of this API."""
    message = field.message_type
    if message is None or message.GetOptions().map_entry:
        return None
    return message if message.file.package.startswith("tq") else None


def _giant(field: FieldDescriptor) -> Make:
    return lambda size: _sized(field.number, b"x", size)


def _again(once: bytes) -> Make:
    return lambda size: _times(once, size)


def _inside(field: FieldDescriptor, make: Make) -> Make:
    def wrapped(size: int) -> bytes:
        inner = make(size - len(_tag(field.number, _BYTES)) - _LENGTH_MAX)
        return _tag(field.number, _BYTES) + _varint(len(inner)) + inner

    return wrapped


def _times(once: bytes, size: int) -> bytes:
    return once * (size // len(once))


def _sized(number: int, filler: bytes, size: int) -> bytes:
    tag = _tag(number, _BYTES)
    inner = _times(filler, size - len(tag) - _LENGTH_MAX)
    return tag + _varint(len(inner)) + inner


def _numbered(number: int, before: bytes, size: int) -> bytes:
    """Return fields of seven digits each, ``before`` in front of them."""
    tag = _tag(number, _BYTES) + _varint(len(before) + 7) + before
    return b"".join(tag + b"%07d" % each for each in range(size // (len(tag) + 7)))


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
