"""Protobuf messages as the plain data that JSON, YAML and tables show.

Unlike protobuf's own JSON mapping: 64-bit numbers stay numbers, a state is PENDING and not
TASK_STATE_PENDING, and bytes that are text are text (other bytes are at `<field>_base64`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, TypeAlias

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Plain: TypeAlias = dict[str, Any]
Field: TypeAlias = Any  # protobuf has two classes of field descriptors with one interface


def plain(message: Message) -> Plain:
    """The message with every field, absent sub-messages as None."""
    data: Plain = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.containing_oneof is not None and not message.HasField(field.name):
            continue
        if _is_map(field):
            data[field.name] = dict(sorted(value.items()))
        elif field.is_repeated:
            data[field.name] = _plain_list(field, value)
        elif field.message_type is not None and not message.HasField(field.name):
            data[field.name] = None
        elif field.type == FieldDescriptor.TYPE_BYTES:
            data.update(_plain_bytes(field.name, value))
        else:
            data[field.name] = _plain_value(field, value)
    return data


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """The value's name without the enum's, TASK_STATE_PENDING as PENDING; its number if unknown."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix)


def _is_map(field: Field) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _plain_list(field: Field, values: Iterable[Any]) -> list[Any]:
    return [_plain_value(field, value) for value in values]


def _plain_bytes(name: str, value: bytes) -> Plain:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _plain_value(field: Field, value: Any) -> Any:  # noqa: ANN401 - the value of any field
    if isinstance(value, Timestamp | Duration):
        return value.ToJsonString()
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    return value
