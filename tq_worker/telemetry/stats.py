"""The worker's counters; written and read on the event loop."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from tq_process.recent import Recent

SECONDS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
"""The bounds of the histogram of handler times, in seconds."""

QueueAndType = tuple[str, str]


class Durations:
    """A histogram of handler times."""

    __slots__ = ("_counts", "sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        place = next((at for at, bound in enumerate(SECONDS) if seconds <= bound), len(SECONDS))
        self._counts[place] += 1
        self.sum_s += seconds

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield each bucket's bound, and how many handlers took at most that long."""
        bounds = [*map(str, SECONDS), "+Inf"]
        yield from zip(bounds, accumulate(self._counts), strict=True)


KINDS_MAX = 200
OTHER = "~other"
"""No queue and no type can have this name."""


@dataclass(slots=True)
class Stats:
    """Counts since the worker's start, by recently met queues and types."""

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
    """Claim calls by their outcome: tasks, nothing, error."""
    deaths: int = 0
    """Handler processes that ended unasked."""
    recycled: Counter[str] = field(default_factory=Counter)
    """Relieved handler processes, by reason: tasks, memory, reload, stopped."""
    reconnects: int = 0
    now_s: Callable[[], float] = time.monotonic
    _kinds: Recent[QueueAndType] = field(init=False)

    def __post_init__(self) -> None:
        self._kinds = Recent(KINDS_MAX, self.now_s, self._forget)

    def kind(self, queue: str, task_type: str) -> QueueAndType:
        """The key under which a task is counted: its queue and type, or (OTHER, OTHER).

        Callers choose the types, and tasks without a handler are counted too, so the keys are
        limited to `KINDS_MAX`.
        """
        kind = (queue, task_type)
        return kind if self._kinds.admits(kind) else (OTHER, OTHER)

    def tidy(self) -> None:
        """Forget queues and types that were not met for long."""
        self._kinds.tidy()

    def _forget(self, kind: QueueAndType) -> None:
        for counter in (self.started, self.completed, self.failed, self.released, self.lost):
            del counter[kind]
        self.durations.pop(kind, None)
