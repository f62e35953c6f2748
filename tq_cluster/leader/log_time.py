"""Log time: the clock of due times and retention.

It belongs to the cluster: it runs on the leader's monotonic clock and is drawn towards the median
of the members' wall clocks. It never stops or goes back, even if a wall clock does: it runs at most
a tenth faster and at least half as fast as real time. Leases do not use it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from tq_cluster.clock import Clock
from tq_cluster.core.kernel.feature import Instants
from tq_cluster.core.model.types import TimestampMs

SLEW_MAX = 0.10
"""How much faster log time runs while it is behind. The window in which a repeated call is
recognised is only a fifth longer than promised to callers, so it must not pass much faster.
"""
SLEW_BACK_MAX = 0.5
"""How much slower log time runs while it is ahead, after clocks that were wrong together were
corrected. Due times come later by the wall clocks, and none is skipped.
"""
STEP_MS = 60_000
"""A larger difference is not slewed away but stepped, only forwards, if a majority agrees."""
SLEW_HORIZON_MS = 1_000
"""A difference is slewed away in about this long, if the limits allow."""


class LogTime:
    """Log time under one leader."""

    def __init__(
        self, clock: Clock, peer_offsets_ms: Callable[[], Sequence[int]], members: int
    ) -> None:
        """``peer_offsets_ms`` returns the wall clock less ours of each peer that reported it."""
        self._clock = clock
        self._peer_offsets_ms = peer_offsets_ms
        self._majority = members // 2 + 1
        self._read_at_s = clock.monotonic_s()
        self._now_ms = 0.0
        self.stepped_ms = 0
        """Total of all steps, by this leader and those before."""

    def begin(self, last_decided_ms: TimestampMs, stepped_ms: int) -> None:
        """Begin a leadership: continue from the last instant that any leader decided at."""
        self._read_at_s = self._clock.monotonic_s()
        self._now_ms = float(max(self._now_ms, last_decided_ms))
        self.stepped_ms = max(self.stepped_ms, stepped_ms)
        ahead_ms = self._median_ms() - self._now_ms
        if last_decided_ms == 0 or 0 < ahead_ms <= STEP_MS:
            self._now_ms += max(0.0, ahead_ms)

    def now_ms(self) -> TimestampMs:
        """Read the clock; never less than the last result."""
        at_s = self._clock.monotonic_s()
        elapsed_ms = (at_s - self._read_at_s) * 1000
        self._read_at_s = at_s
        apart_ms = self._median_ms() - self._now_ms - elapsed_ms
        if apart_ms > STEP_MS and self._majority_agrees():
            self._now_ms += elapsed_ms + apart_ms
            self.stepped_ms += int(apart_ms)
        else:
            speed = max(-SLEW_BACK_MAX, min(SLEW_MAX, apart_ms / SLEW_HORIZON_MS))
            # After a long pause not beyond the target.
            drawn_ms = max(-abs(apart_ms), min(abs(apart_ms), elapsed_ms * speed))
            self._now_ms += elapsed_ms + drawn_ms
        return TimestampMs(int(self._now_ms))

    def instants(self) -> Instants:
        """Read the clock once: log time, and log time without its steps."""
        now_ms = self.now_ms()
        return Instants(now_ms, now_ms - self.stepped_ms)

    def wall_ms(self) -> int:
        """Return the median of the members' wall clocks."""
        return int(self._median_ms())

    def ahead_ms(self) -> int:
        """Return how far log time is ahead of the median of the wall clocks; below 0: behind."""
        return self.now_ms() - self.wall_ms()

    def _offsets_ms(self) -> list[int]:
        return [0, *self._peer_offsets_ms()]

    def _median_ms(self) -> float:
        # For an even number the lower of the middle two: one clock that runs ahead must not pull
        # the cluster along.
        return self._clock.wall_ms() + statistics.median_low(self._offsets_ms())

    def _majority_agrees(self) -> bool:
        offsets_ms = self._offsets_ms()
        median_ms = statistics.median_low(offsets_ms)
        return sum(abs(each - median_ms) <= STEP_MS for each in offsets_ms) >= self._majority
