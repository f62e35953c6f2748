"""The last few measurements of something, and their percentiles."""

from __future__ import annotations

from array import array

KEPT = 1_000


class Samples:
    """A ring of measurements in seconds, in one piece of memory (see `Pairs`)."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._ring = array("d")
        self._next = 0

    def add(self, seconds: float) -> None:
        """Add one measurement."""
        if len(self._ring) < self._kept:
            self._ring.append(seconds)
        else:
            self._ring[self._next] = seconds
            self._next = (self._next + 1) % self._kept

    def percentiles(self, *shares: float) -> list[float]:
        """Return the percentiles at these shares; zeros if there are no measurements."""
        ordered = sorted(self._ring)
        if not ordered:
            return [0.0] * len(shares)
        return [ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in shares]
