"""Lengths of time: their units, and how people write them.

One rule for files, variables and flags of every program: a number with its unit; a number alone is
in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from tq_common.quoting import quoted

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

UNITS_MS: Final[Mapping[str, int]] = {
    "ms": 1,
    "s": SECOND_MS,
    "m": MINUTE_MS,
    "min": MINUTE_MS,
    "h": HOUR_MS,
    "d": DAY_MS,
}
LONGEST: Final = timedelta(days=3660)


def parse(text: str) -> timedelta:
    """Parse a length of time: 500ms, 30s, 5m, 2h, 1d, or 30 for 30 seconds. At most 10 years.

    ValueError says what is right.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([a-z]*)", text.strip(), re.ASCII)
    unit = (match[2] or "s") if match is not None else ""
    if match is None or unit not in UNITS_MS:
        raise ValueError(
            f"{quoted(text)} is not a length of time: 500ms, 30s, 5m, 2h, 1d; a number alone is in"
            " seconds"
        )
    milliseconds = float(match[1]) * UNITS_MS[unit]
    if milliseconds > LONGEST / timedelta(milliseconds=1):
        raise ValueError(f"{quoted(text)} is too long: at most {LONGEST.days} d are allowed")
    return timedelta(milliseconds=milliseconds)
