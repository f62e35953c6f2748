"""Readings of the queues' counts, and the rates between two readings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tq_client import QueueStats

TOTALS = ("submitted", "claimed", "completed", "retried", "failed", "cancelled")
DEPTHS = ("pending", "running", "retrying", "scheduled", "blocked")

Rates = Mapping[str, float]
"""Rates per second, by the names in TOTALS."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Every queue's counts, read at one instant of this machine's clock."""

    at_s: float
    queues: tuple[QueueStats, ...]

    @classmethod
    def of(cls, queues: Iterable[QueueStats]) -> Reading:
        """Take a reading, dated when it is complete."""
        found = tuple(queues)
        return cls(time.monotonic(), found)

    def rates_since(self, earlier: Reading) -> dict[str, Rates]:
        """The rates at which each queue's totals rose; a new queue started from zero."""
        before = {stats.queue: stats.totals for stats in earlier.queues}
        seconds = max(self.at_s - earlier.at_s, 1e-3)
        rates: dict[str, Rates] = {}
        for stats in self.queues:
            then = before.get(stats.queue)
            rates[stats.queue] = {
                name: max(0, getattr(stats.totals, name) - getattr(then, name, 0)) / seconds
                for name in TOTALS
            }
        return rates


def depth(stats: QueueStats) -> int:
    """The number of tasks of a queue that have not ended."""
    return sum(getattr(stats, name) for name in DEPTHS)


def together(rates: Mapping[str, Rates]) -> Rates:
    """The sum of all queues' rates."""
    return {name: sum(each[name] for each in rates.values()) for name in TOTALS}
