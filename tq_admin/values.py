"""Parses what people type: addresses, lengths of time, instants, labels."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from tq_client import After, Backoff
from tq_common import durations
from tq_common.addresses import listed
from tq_common.quoting import quoted

LIMIT_MAX = 1_000_000
"""The most items that a command shows."""


def addresses(text: str) -> tuple[str, ...]:
    """Parse `host:port[,host:port...]`."""
    return tuple(listed(text))


def instant(text: str) -> datetime:
    """Parse an ISO 8601 instant; without an offset it is in local time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        message = f"{quoted(text)} is not an instant like 2030-01-31T08:00:00Z"
        raise ValueError(message) from None
    except OverflowError:
        raise ValueError(f"{quoted(text)}: years 1 to 9999 are allowed") from None


_AFTER = re.compile(
    "(?P<id>.+?)(?::(?P<condition>completed|not[-_]completed|ended)(?::(?P<otherwise>fail|skip))?)?",
    re.DOTALL | re.IGNORECASE,
)


def after(text: str) -> After:
    """Parse `ID[:CONDITION[:OTHERWISE]]`: charge-7, charge-7:not-completed, charge-7:ended.

    A task id may contain colons: only what is a condition at the end is taken for one.
    """
    parts = _AFTER.fullmatch(text)
    if parts is None:
        raise ValueError(f"{quoted(text)} is not ID[:CONDITION[:OTHERWISE]], as in charge-7:ended")
    condition: Any = (parts["condition"] or "completed").lower().replace("-", "_")
    otherwise: Any = parts["otherwise"] and parts["otherwise"].lower()
    return After(parts["id"], condition, otherwise)


def backoff(text: str) -> Backoff:
    """Parse `FIRST[,FACTOR[,MOST]]`: 5s, or 1s,2,10m."""
    first, *others = text.split(",")
    if len(others) > 2:  # noqa: PLR2004 - factor and most
        raise ValueError(f"{quoted(text)} is not FIRST[,FACTOR[,MOST]], as in 1s,2,10m")
    factor = None
    if others:
        try:
            factor = float(others[0])
        except ValueError:
            raise ValueError(f"{quoted(others[0])} is not a factor, as 2 in 1s,2,10m") from None
    most = durations.parse(others[1]) if len(others) > 1 else None
    return Backoff(durations.parse(first), factor, most)


def label(text: str) -> tuple[str, str]:
    """Parse `key=value`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"{text!r} is not key=value")
    return key, value
