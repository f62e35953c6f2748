"""The options of a task: the same for `submit`, `@task` and `.options`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, Unpack

from tq.v1.task_options import OPTIONS, TaskOptions
from tq.v1.task_pb2 import RetryPolicy, TaskSpec
from tq_client.dependencies import Waited, set_depends_on
from tq_common.limits import MAX_ATTEMPTS_MAX
from tq_common.quoting import shown
from tq_common.task_options import Kind, TaskOption

Span: TypeAlias = "timedelta | float"
"""A length of time: a timedelta, or seconds."""

RETRIES_MAX: Final = MAX_ATTEMPTS_MAX - 1
SPAN_MAX: Final = timedelta(
    milliseconds=max(each.most or 0 for each in OPTIONS if each.kind is Kind.SPAN)
)
"""The longest span of any option; for most options the brokers' limit is lower."""

_OTHERS_WORDS: Final[Mapping[str, str]] = {
    "countdown": "delay",
    **{option.field: option.name for option in OPTIONS},
    **{alias: option.name for option in OPTIONS for alias in option.aliases},
}
"""The names of options in Celery, RQ, Dramatiq, others and the protos, with ours."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a task waits between a failed attempt and the next.

    The wait is ``first``, then ``factor`` times as long after each attempt, up to ``most``. With
    ``jitter`` it is a random part of that, so that tasks that failed together are not retried
    together.
    """

    first: Span | None = None
    """The wait after the first attempt; by default 5 s, at most 24 h."""
    factor: float | None = None
    """1 to 100; by default 2."""
    most: Span | None = None
    """The longest wait; by default 1 h, at most 7 d."""
    jitter: bool = True
    """False: wait the whole span."""


class SpecFields(TaskOptions, total=False):
    """The options of a task; None means the default."""

    delay: Span | None
    """The task does not start before this span has passed; excludes ``run_at``."""
    retries: int | None
    """How many attempts may follow the first, 0 to 999; by default 4."""
    backoff: Backoff | None
    """How long the task waits before each retry."""
    depends_on: Collection[Waited] | None
    """The tasks that have to end first, at most 1,000: ids, handles, or `After` for another
    condition than success. In `submit_together`, and in the tasks of a completion, a whole number
    is a position in the same list."""


def task_spec(
    queue: str, task_type: str, payload: bytes = b"", **fields: Unpack[SpecFields]
) -> TaskSpec:
    """Make a task for `submit_many`, or for a handler to submit with its completion.

    Raises TypeError for an unknown option or a value of the wrong type, and ValueError for a value
    out of range.
    """
    return make_spec("task_spec", queue, task_type, payload, fields)


def make_spec(
    where: str,
    queue: str,
    task_type: str,
    payload: bytes,
    fields: SpecFields,
    others: Collection[str] = (),
) -> TaskSpec:
    """Do the same for the function ``where``, which also has the options ``others``."""
    check(where, fields, others)
    spec = TaskSpec(
        queue=_text("queue", queue),
        type=_text("task_type", task_type),
        payload=_bytes("payload", payload),
    )
    for name, value in fields.items():
        if value is not None:
            _SETTERS[name](spec, name, value)
    return spec


def check(where: str, fields: Mapping[str, Any], others: Collection[str] = ()) -> None:
    """Refuse options that ``where`` does not have; ``others`` are its options besides ours.

    Raises:
        TypeError: an unknown option; the message suggests the one that may be meant.
        ValueError: two options that exclude each other.
    """
    ours = [*others, *_SETTERS]
    for name in fields:
        if name in ours:
            continue
        meant = _OTHERS_WORDS.get(name)
        if meant is None:
            meant = next(iter(difflib.get_close_matches(name, ours, n=1)), None)
        hint = f": {meant} may be meant" if meant in ours else ""
        raise TypeError(f"{where}: there is no option {name}{hint}; there are {', '.join(ours)}")
    if fields.get("run_at") is not None and fields.get("delay") is not None:
        raise ValueError(f"{where}: run_at and delay: give one of them")


def check_values(where: str, fields: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for an invalid value, before anything is submitted."""
    spec = TaskSpec()
    for name, value in fields.items():
        if value is not None:
            try:
                _SETTERS[name](spec, name, value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{where}: {error}") from None


def merged(before: SpecFields, after: SpecFields) -> SpecFields:
    """Merge options: those of ``after`` override those of ``before``."""
    given = {name: value for name, value in after.items() if value is not None}
    kept = dict(before)
    for name, other in (("run_at", "delay"), ("delay", "run_at")):
        if name in given:
            kept.pop(other, None)
    both: Any = {**kept, **given}
    fields: SpecFields = both
    return fields


def span(name: str, value: object) -> timedelta:
    """Read a length of time; raises TypeError or ValueError, which name the option."""
    if isinstance(value, timedelta):
        length = value
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={shown(value)}: it takes a timedelta, or seconds as a number")
    elif not math.isfinite(value) or abs(value) > SPAN_MAX.total_seconds():
        raise ValueError(f"{name}={shown(value)}: at most {SPAN_MAX.days} days are allowed")
    else:
        length = timedelta(seconds=value)
    if not timedelta() <= length <= SPAN_MAX:
        raise ValueError(f"{name}={shown(value)}: 0 to {SPAN_MAX.days} days are allowed")
    return length


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    advice = f"; say str({name})" if type(value).__name__ == "UUID" else ""
    raise TypeError(f"{name}={shown(value)}: it takes a str{advice}")


def _bytes(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    advice = f"; say {name}.encode()" if isinstance(value, str) else ""
    raise TypeError(f"{name}={shown(value)}: it takes bytes{advice}")


def _whole(name: str, value: object, least: int, most: int, carried_max: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={shown(value)}: it takes a whole number from {least} to {most}")
    if not least <= value <= (most if carried_max is None else carried_max):
        raise ValueError(f"{name}={shown(value)}: {least} to {most} are allowed")
    return value


def _instant(name: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{name}={shown(value)}: it takes a datetime with a time zone")
    if value.tzinfo is None:
        raise ValueError(
            f"{name}: a datetime without a time zone could mean any instant; give it one"
        )
    return value


def _set_retries(spec: TaskSpec, name: str, value: object) -> None:
    spec.max_attempts = _whole(name, value, 0, RETRIES_MAX) + 1


def _set_delay(spec: TaskSpec, name: str, value: object) -> None:
    spec.run_at.FromDatetime(datetime.now(UTC) + span(name, value))


def _set_backoff(spec: TaskSpec, name: str, value: object) -> None:
    if not isinstance(value, Backoff):
        raise TypeError(f"{name}={shown(value)}: it takes a Backoff(first, factor, most)")
    spec.retry_policy.CopyFrom(_policy(name, value))


def _policy(name: str, backoff: Backoff) -> RetryPolicy:
    policy = RetryPolicy(no_jitter=not backoff.jitter)
    if backoff.first is not None:
        policy.initial_backoff.FromTimedelta(span(f"{name}.first", backoff.first))
    if backoff.most is not None:
        policy.max_backoff.FromTimedelta(span(f"{name}.most", backoff.most))
    if backoff.factor is not None:
        if isinstance(backoff.factor, bool) or not isinstance(backoff.factor, int | float):
            raise TypeError(f"{name}.factor={shown(backoff.factor)}: it takes a number")
        policy.multiplier = backoff.factor
    return policy


# ------------------------------------------------------- options in the form of their fields

_Setter = Callable[[TaskSpec, str, object], None]
"""Sets an option of this name to a value; raises TypeError or ValueError, which name it."""
_UINT32_MAX: Final = (1 << 32) - 1


def _number(option: TaskOption) -> _Setter:
    field, least, most = option.field, option.least or 0, option.most or 0
    # The broker refuses what is only a little out of range, as with every other field.
    carried_max = max(most, _UINT32_MAX)

    def put(spec: TaskSpec, name: str, value: object) -> None:
        setattr(spec, field, _whole(name, value, least, most, carried_max))

    return put


def _flag(option: TaskOption) -> _Setter:
    def put(spec: TaskSpec, name: str, value: object) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"{name}={shown(value)}: it takes True or False")
        setattr(spec, option.field, value)

    return put


def _one_text(option: TaskOption) -> _Setter:
    field = option.field

    def put(spec: TaskSpec, name: str, value: object) -> None:
        setattr(spec, field, _text(name, value))

    return put


def _some_bytes(option: TaskOption) -> _Setter:
    def put(spec: TaskSpec, name: str, value: object) -> None:
        setattr(spec, option.field, _bytes(name, value))

    return put


def _length(option: TaskOption) -> _Setter:
    field, may_be_nothing = option.field, not option.least

    def put(spec: TaskSpec, name: str, value: object) -> None:
        length = span(name, value)
        if not (length or may_be_nothing):
            raise ValueError(f"{name}={shown(value)}: it has to be more than nothing")
        getattr(spec, field).FromTimedelta(length)

    return put


def _moment(option: TaskOption) -> _Setter:
    field = option.field

    def put(spec: TaskSpec, name: str, value: object) -> None:
        getattr(spec, field).FromDatetime(_instant(name, value))

    return put


def _choice(option: TaskOption) -> _Setter:
    words = [repr(word) for word in option.choices]
    several = ", ".join(words[:-1])

    def put(spec: TaskSpec, name: str, value: object) -> None:
        if not isinstance(value, str):
            raise TypeError(f"{name}={shown(value)}: it takes {several} or {words[-1]}")
        if value not in option.choices:
            raise ValueError(f"{name}={shown(value)}: {several} and {words[-1]} are allowed")
        setattr(spec, option.field, option.choices[value])

    return put


def _texts(option: TaskOption) -> _Setter:
    def put(spec: TaskSpec, name: str, value: object) -> None:
        if isinstance(value, str) or not isinstance(value, Collection):
            raise TypeError(f"{name}={shown(value)}: it takes a list of str")
        if option.items_max is not None and len(value) > option.items_max:
            count = f"{len(value):,} entries"
            raise ValueError(f"{name} has {count}; at most {option.items_max:,} are allowed")
        getattr(spec, option.field).extend(_text(name, each) for each in value)

    return put


def _map(option: TaskOption) -> _Setter:
    field = option.field

    def put(spec: TaskSpec, name: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise TypeError(f"{name}={shown(value)}: it takes a mapping of str to str")
        texts = getattr(spec, field)
        for key, text in value.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise TypeError(f"{name}: {shown(key)}: {shown(text)}: both have to be str")
            texts[key] = text

    return put


_BY_KIND: Final[Mapping[Kind, Callable[[TaskOption], _Setter]]] = {
    Kind.NUMBER: _number,
    Kind.FLAG: _flag,
    Kind.TEXT: _one_text,
    Kind.BYTES: _some_bytes,
    Kind.SPAN: _length,
    Kind.INSTANT: _moment,
    Kind.CHOICE: _choice,
    Kind.TEXTS: _texts,
    Kind.MAP: _map,
}
_SETTERS: Final[Mapping[str, _Setter]] = {
    **{each.name: _BY_KIND[each.kind](each) for each in OPTIONS if not each.by_hand},
    "delay": _set_delay,
    "retries": _set_retries,
    "backoff": _set_backoff,
    "depends_on": set_depends_on,
}
