"""The options of a task: the same for `submit`, `@task` and `.options`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack

from tq.v1.task_pb2 import IfExists, RetryPolicy, TaskSpec
from tq_common.limits import MAX_ATTEMPTS_MAX, PRIORITY_MAX, RETENTION_S_MAX
from tq_common.quoting import shown

Span: TypeAlias = "timedelta | float"
"""A length of time: a timedelta, or seconds."""

RETRIES_MAX: Final = MAX_ATTEMPTS_MAX - 1
SPAN_MAX: Final = timedelta(seconds=RETENTION_S_MAX)
"""The longest span of any option; for most options the brokers' limit is lower."""

_OTHERS_WORDS: Final[Mapping[str, str]] = {
    "at": "run_at",
    "autoretry_for": "retries",
    "countdown": "delay",
    "default_retry_delay": "backoff",
    "eta": "run_at",
    "expires": "expire_at",
    "headers": "labels",
    "id": "task_id",
    "job_id": "task_id",
    "job_timeout": "timeout",
    "max_attempts": "retries",
    "max_backoff": "backoff",
    "max_retries": "retries",
    "metadata": "labels",
    "min_backoff": "backoff",
    "result_expires": "retention",
    "result_ttl": "retention",
    "retry": "retries",
    "retry_backoff": "backoff",
    "retry_policy": "backoff",
    "soft_time_limit": "timeout",
    "tags": "labels",
    "time_limit": "timeout",
    "ttl": "expire_at",
}
"""The names of options in Celery, RQ, Dramatiq and others, with ours."""


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


class SpecFields(TypedDict, total=False):
    """The options of a task; None means the default."""

    task_id: str | None
    """1 to 200 characters of A-Z a-z 0-9 . _ : -; a task whose id exists is not created again."""
    if_exists: Literal["refuse", "keep"] | None
    """If a task with this ``task_id`` exists: "refuse" (the default) raises ConflictError; "keep"
    succeeds and keeps the existing task."""
    content_type: str | None
    priority: int | None
    """0, the least urgent and the default, to 255."""
    run_at: datetime | None
    """The task does not start before this instant; excludes ``delay``."""
    delay: Span | None
    """The task does not start before this span has passed; excludes ``run_at``."""
    expire_at: datetime | None
    """A task that still waits at this instant becomes FAILED; a running one may finish."""
    timeout: Span | None
    """How long one attempt may take; by default unlimited."""
    retries: int | None
    """How many attempts may follow the first, 0 to 999; by default 4."""
    backoff: Backoff | None
    """How long the task waits before each retry."""
    labels: Mapping[str, str] | None
    """For people and filters; at most 32."""
    retention: Span | None
    """How long the task is kept once it has ended; by default 24 h, or 14 d for a dead letter."""
    traceparent: str | None
    """The submitter's trace context (W3C "traceparent")."""


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
        payload=_payload(payload),
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


_UINT32_MAX: Final = (1 << 32) - 1


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    advice = f"; say str({name})" if type(value).__name__ == "UUID" else ""
    raise TypeError(f"{name}={shown(value)}: it takes a str{advice}")


def _payload(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    advice = "; say payload.encode()" if isinstance(value, str) else ""
    raise TypeError(f"payload={shown(value)}: it takes bytes{advice}")


def _whole(name: str, value: object, most: int, carried_max: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={shown(value)}: it takes a whole number from 0 to {most}")
    if not 0 <= value <= (most if carried_max is None else carried_max):
        raise ValueError(f"{name}={shown(value)}: 0 to {most} are allowed")
    return value


def _instant(name: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{name}={shown(value)}: it takes a datetime with a time zone")
    if value.tzinfo is None:
        raise ValueError(
            f"{name}: a datetime without a time zone could mean any instant; give it one"
        )
    return value


def _set_text(spec: TaskSpec, name: str, value: object) -> None:
    setattr(spec, name, _text(name, value))


def _set_priority(spec: TaskSpec, name: str, value: object) -> None:
    # The broker refuses what is only a little out of range, as with every other field.
    spec.priority = _whole(name, value, PRIORITY_MAX, carried_max=_UINT32_MAX)


def _set_retries(spec: TaskSpec, name: str, value: object) -> None:
    spec.max_attempts = _whole(name, value, RETRIES_MAX) + 1


def _set_instant(spec: TaskSpec, name: str, value: object) -> None:
    getattr(spec, name).FromDatetime(_instant(name, value))


def _set_delay(spec: TaskSpec, name: str, value: object) -> None:
    spec.run_at.FromDatetime(datetime.now(UTC) + span(name, value))


def _set_timeout(spec: TaskSpec, name: str, value: object) -> None:
    length = span(name, value)
    if not length:
        raise ValueError(f"{name}={shown(value)}: it has to be more than nothing")
    spec.timeout.FromTimedelta(length)


def _set_span(spec: TaskSpec, name: str, value: object) -> None:
    getattr(spec, name).FromTimedelta(span(name, value))


def _set_if_exists(spec: TaskSpec, name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)}: it takes 'refuse' or 'keep'")
    if value not in _IF_EXISTS:
        raise ValueError(f"{name}={shown(value)}: 'refuse' and 'keep' are allowed")
    spec.if_exists = _IF_EXISTS[value]


_IF_EXISTS: Final[Mapping[str, IfExists.ValueType]] = {
    "refuse": IfExists.IF_EXISTS_REFUSE,
    "keep": IfExists.IF_EXISTS_KEEP,
}


def _set_labels(spec: TaskSpec, name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}={shown(value)}: it takes a mapping of str to str")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"{name}: {shown(key)}: {shown(text)}: both have to be str")
        spec.labels[key] = text


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


_Setter = Callable[[TaskSpec, str, object], None]
_SETTERS: Final[Mapping[str, _Setter]] = {
    "task_id": _set_text,
    "if_exists": _set_if_exists,
    "content_type": _set_text,
    "priority": _set_priority,
    "run_at": _set_instant,
    "delay": _set_delay,
    "expire_at": _set_instant,
    "timeout": _set_timeout,
    "retries": _set_retries,
    "backoff": _set_backoff,
    "labels": _set_labels,
    "retention": _set_span,
    "traceparent": _set_text,
}
