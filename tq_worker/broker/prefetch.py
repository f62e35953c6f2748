"""How many tasks to prefetch beyond those that run."""

from __future__ import annotations

import math

HORIZON_S = 0.25
"""Tasks for about this long are prefetched: enough for several claims, and few to give back if
handlers slow down.
"""
AHEAD_MAX = 2000
DECAY_S = 0.5
"""The half-life of the remembered rate while fewer tasks end."""


class Prefetch:
    """Learns how fast tasks end.

    If they take longer than the horizon, nothing is prefetched: another worker may have a slot
    for the task now.
    """

    def __init__(self, concurrency: int, now_s: float) -> None:
        self._concurrency = concurrency
        self._since_s = now_s
        self._ended = 0
        self._rate = 0.0

    def ended(self, count: int, now_s: float) -> None:
        """Note that tasks ended."""
        self._ended += count
        elapsed_s = now_s - self._since_s
        if elapsed_s >= HORIZON_S / 2:
            self._rate = max(self._ended / elapsed_s, self._remembered(elapsed_s))
            self._since_s = now_s
            self._ended = 0

    def ahead(self, now_s: float) -> int:
        """Return how many tasks to prefetch."""
        elapsed_s = now_s - self._since_s
        rate = self._rate if elapsed_s < HORIZON_S else self._remembered(elapsed_s)
        wanted = int(rate * HORIZON_S)
        return min(AHEAD_MAX, wanted) if wanted >= self._concurrency else 0

    def forget(self, now_s: float) -> None:
        """Start over: the learned rate no longer holds."""
        self._since_s, self._ended, self._rate = now_s, 0, 0.0

    def _remembered(self, elapsed_s: float) -> float:
        return self._rate * math.exp2(-elapsed_s / DECAY_S)
