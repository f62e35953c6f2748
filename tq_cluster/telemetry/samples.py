"""The last few measurements of something, and their percentiles."""

from __future__ import annotations

from collections import deque

KEPT = 1_000


class Samples:
    """A ring of measurements in seconds."""

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[float] = deque(maxlen=kept)

    def add(self, seconds: float) -> None:
        """Take one measurement."""
        self._ring.append(seconds)

    def percentiles(self, *shares: float) -> list[float]:
        """The values below which these shares of them lie; zeros while there are none."""
        ordered = sorted(self._ring)
        if not ordered:
            return [0.0] * len(shares)
        return [ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in shares]
