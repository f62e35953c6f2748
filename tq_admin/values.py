"""What people type, as values: addresses, lengths of time, instants, labels."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from tq_process.addresses import listed

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def addresses(text: str) -> tuple[str, ...]:
    """Parse `host:port[,host:port...]`."""
    return tuple(listed(text))


def duration(text: str) -> timedelta:
    """Parse a length of time with its unit: 500ms, 30s, 5m, 2h, 1d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip())
    if match is None or match[2] not in UNITS_MS:
        raise ValueError(f"{text!r} is not a length of time with its unit: 500ms, 30s, 5m, 2h, 1d")
    return timedelta(milliseconds=float(match[1]) * UNITS_MS[match[2]])


def instant(text: str) -> datetime:
    """Parse an ISO 8601 instant; without an offset it is in local time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        message = f"{text!r} is not an instant like 2030-01-31T08:00:00Z"
        raise ValueError(message) from None


def label(text: str) -> tuple[str, str]:
    """Parse `key=value`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"{text!r} is not key=value")
    return key, value
