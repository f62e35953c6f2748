"""The instants at which a broker does its periodic work.

A processor that has rested needs some tenths of a millisecond to warm up, however little work
follows. So the periodic work of a broker is done at the same instants of its loop's clock: a quiet
broker wakes ten times a second, not once for each kind of work.
"""

from __future__ import annotations

import math
from typing import Final

BEAT_S: Final = 0.1


def next_beat_s(now_s: float, every: int = 1) -> float:
    """Return the first instant after ``now_s`` that is a multiple of ``every`` beats.

    It is at least half a beat away: a beat that came a little early is not repeated.
    """
    period_s = every * BEAT_S
    beat_s = (math.floor(now_s / period_s) + 1) * period_s
    return beat_s if beat_s - now_s >= BEAT_S / 2 else beat_s + period_s
