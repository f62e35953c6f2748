"""What the queues hold at an instant, and what two instants say of the time between them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tq_client import QueueStats

TOTALS = ("submitted", "claimed", "completed", "retried", "failed", "cancelled")
DEPTHS = ("pending", "running", "retrying", "scheduled", "blocked")

Rates = Mapping[str, float]
"""A second, by the names of TOTALS."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Every queue's counts, read at one instant of this machine's clock."""

    at_s: float
    queues: tuple[QueueStats, ...]

    @classmethod
    def of(cls, queues: Iterable[QueueStats]) -> Reading:
        """Take a reading; its instant is when it was complete."""
        found = tuple(queues)
        return cls(time.monotonic(), found)

    def rates_since(self, earlier: Reading) -> dict[str, Rates]:
        """How fast each queue's totals rose. A queue that is new started from nothing."""
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
    """Tasks of a queue that have not ended."""
    return sum(getattr(stats, name) for name in DEPTHS)


def together(rates: Mapping[str, Rates]) -> Rates:
    """The rates of all queues in one."""
    return {name: sum(each[name] for each in rates.values()) for name in TOTALS}
