"""Parses what people type: addresses, lengths of time, instants, labels."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from tq_client import Backoff
from tq_process.addresses import listed

LONGEST = timedelta(days=3660)
SHOWN_CHARS_MAX = 60
LIMIT_MAX = 1_000_000
"""The most items that a command shows."""
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def addresses(text: str) -> tuple[str, ...]:
    """Parse `host:port[,host:port...]`."""
    return tuple(listed(text))


def duration(text: str) -> timedelta:
    """Parse a length of time with its unit: 500ms, 30s, 5m, 2h, 1d. At most 10 years."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]+)", text.strip(), re.ASCII)
    if match is None or match[2] not in UNITS_MS:
        raise ValueError(
            f"{_shown(text)} is not a length of time with its unit: 500ms, 30s, 5m, 2h, 1d"
        )
    milliseconds = float(match[1]) * UNITS_MS[match[2]]
    if milliseconds > LONGEST / timedelta(milliseconds=1):
        raise ValueError(f"{_shown(text)} is too long: at most {LONGEST.days} d are allowed")
    return timedelta(milliseconds=milliseconds)


def instant(text: str) -> datetime:
    """Parse an ISO 8601 instant; without an offset it is in local time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        message = f"{_shown(text)} is not an instant like 2030-01-31T08:00:00Z"
        raise ValueError(message) from None
    except OverflowError:
        raise ValueError(f"{_shown(text)}: years 1 to 9999 are allowed") from None


def backoff(text: str) -> Backoff:
    """Parse `FIRST[,FACTOR[,MOST]]`: 5s, or 1s,2,10m."""
    first, *others = text.split(",")
    if len(others) > 2:  # noqa: PLR2004 - factor and most
        raise ValueError(f"{_shown(text)} is not FIRST[,FACTOR[,MOST]], as in 1s,2,10m")
    factor = None
    if others:
        try:
            factor = float(others[0])
        except ValueError:
            raise ValueError(f"{_shown(others[0])} is not a factor, as 2 in 1s,2,10m") from None
    most = duration(others[1]) if len(others) > 1 else None
    return Backoff(duration(first), factor, most)


def label(text: str) -> tuple[str, str]:
    """Parse `key=value`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"{text!r} is not key=value")
    return key, value


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "...")
