"""What a worker counts of itself: written on the event loop, and read there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

SECONDS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""Bounds of the buckets that handler times are counted in."""

QueueAndType = tuple[str, str]


class Durations:
    """How long handlers took."""

    __slots__ = ("_counts", "sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        place = next((at for at, bound in enumerate(SECONDS) if seconds <= bound), len(SECONDS))
        self._counts[place] += 1
        self.sum_s += seconds

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield each bucket's bound and how many took at most so long."""
        bounds = [*map(str, SECONDS), "+Inf"]
        yield from zip(bounds, accumulate(self._counts), strict=True)


@dataclass(slots=True)
class Stats:
    """Counts since the worker's start."""

    started: Counter[QueueAndType] = field(default_factory=Counter)
    """Attempts whose handler was entered, and that have ended."""
    completed: Counter[QueueAndType] = field(default_factory=Counter)
    failed: Counter[QueueAndType] = field(default_factory=Counter)
    released: Counter[QueueAndType] = field(default_factory=Counter)
    lost: Counter[QueueAndType] = field(default_factory=Counter)
    """Leases that ended before the worker could report."""
    durations: defaultdict[QueueAndType, Durations] = field(
        default_factory=lambda: defaultdict(Durations)
    )
    claims: Counter[str] = field(default_factory=Counter)
    """Claim calls by what they brought: tasks, nothing, error."""
    deaths: int = 0
    """Handler processes that ended unasked."""
    recycled: Counter[str] = field(default_factory=Counter)
    """Handler processes that were relieved, by why: tasks, memory, reload."""
    reconnects: int = 0
