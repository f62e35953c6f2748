"""The values at the bounds of each option of a task, and just beyond, from its declaration.

Values are as Python's options take them: timedeltas, datetimes, words of a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tq.v1 import task_pb2
from tq_common import names
from tq_common.task_options import Kind, TaskOption

_LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def least(option: TaskOption, now: datetime) -> Any:  # noqa: ANN401, ARG001  # the option's own type; as `most`
    """Return the smallest value that an option takes and that is set."""
    if option.kind is Kind.NUMBER:
        return max(1, option.least or 0)
    if option.kind is Kind.SPAN:
        return (option.least or 0) * _MS
    if option.kind is Kind.INSTANT:
        return datetime.fromtimestamp(0, UTC)
    small: dict[Kind, Any] = {
        Kind.FLAG: True,
        Kind.TEXT: "t",
        Kind.BYTES: b"b",
        Kind.TEXTS: ["t"],
        Kind.MAP: {"k": ""},
    }
    return next(iter(option.choices), None) if option.choices else small[option.kind]


def most(option: TaskOption, now: datetime) -> Any:  # noqa: ANN401  # as above
    """Return the largest value that an option takes."""
    size = option.most or 0
    if option.kind is Kind.SPAN:
        return size * _MS
    if option.kind is Kind.INSTANT:
        return now + size * _MS if size else _LATEST
    if option.kind is Kind.CHOICE:
        return list(option.choices)[-1]
    if option.kind is Kind.TEXTS:
        return [_longest(option)] * (option.items_max or 0)
    if option.kind is Kind.MAP:
        return _entries(option.items_max or 0, option.key_max or 0, size)
    large: dict[Kind, Any] = {
        Kind.NUMBER: size,
        Kind.FLAG: True,
        Kind.TEXT: _longest(option),
        Kind.BYTES: b"b" * size,
    }
    return large[option.kind]


def beyond(option: TaskOption, now: datetime) -> list[Any]:
    """Return values just outside the bounds; none if the type has no others."""
    size, items, key = option.most or 0, option.items_max or 0, option.key_max or 0
    small = option.least or 0
    if option.kind is Kind.NUMBER:
        return [size + 1] + ([small - 1] if small > 1 else [])
    if option.kind is Kind.SPAN:
        return [(size + 1) * _MS, (small - 1) * _MS]
    if option.kind is Kind.INSTANT:
        return [now + (size + 1) * _MS] if size else []
    if option.kind is Kind.CHOICE:
        return [max(option.choices.values()) + 1]
    if option.kind is Kind.MAP:
        return [
            _entries(items + 1, key, 0),
            {"": ""},
            {"k" * (key + 1): ""},
            {"k": "v" * (size + 1)},
        ]
    if option.kind is Kind.TEXTS:
        too_long = [[_longest(option) + "t"]] if size or option.rule else []
        return [["t"] * (items + 1), *too_long]
    if option.kind is Kind.BYTES:
        return [b"b" * (size + 1)]
    return [_longest(option) + "t"] if size or option.rule else []


def put(spec: task_pb2.TaskSpec, option: TaskOption, value: object) -> None:
    """Set an option in a spec, without a look at its bounds."""
    place = getattr(spec, option.field)
    if isinstance(value, timedelta):
        place.FromTimedelta(value)
    elif isinstance(value, datetime):
        place.FromDatetime(value)
    elif isinstance(value, Mapping):
        place.update(value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        place.extend(value)
    elif option.kind is Kind.CHOICE and isinstance(value, str):
        setattr(spec, option.field, option.choices[value])
    else:
        setattr(spec, option.field, value)


def _longest(option: TaskOption) -> str:
    if option.rule:
        return "t" * int(getattr(names, f"{option.rule}_CHARS_MAX"))
    return "t" * (option.most or 1)


def _entries(count: int, key: int, value: int) -> dict[str, str]:
    return {str(number).rjust(key, "k"): "v" * value for number in range(count)}
