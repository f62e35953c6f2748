"""How long anything held the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

BEAT_S = 0.02
SPAN_S = 60.0


class LoopHold:
    """Beats on the loop and notes how late each beat comes.

    A beat that is due while something holds the loop runs only when that ends, so its lateness is
    at most the length of the hold and at least that less one beat. Time in which the whole machine
    did not run the process counts, too.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        """``observe`` is told every beat's lateness, in seconds."""
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._recent: deque[tuple[float, float]] = deque()
        """(when, seconds), the seconds falling: the first is the longest of the span."""
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._due_s = self._loop.time() + BEAT_S
        self._timer = self._loop.call_at(self._due_s, self._beat)

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()

    def longest_s(self) -> float:
        """The longest hold of the last minute."""
        self._forget(self._loop.time())
        return self._recent[0][1] if self._recent else 0.0

    def _beat(self) -> None:
        now_s = self._loop.time()
        held_s = max(0.0, now_s - self._due_s)
        self._observe(held_s)
        while self._recent and self._recent[-1][1] <= held_s:
            self._recent.pop()
        self._recent.append((now_s, held_s))
        self._forget(now_s)
        self._due_s = now_s + BEAT_S
        self._timer = self._loop.call_at(self._due_s, self._beat)

    def _forget(self, now_s: float) -> None:
        while self._recent and self._recent[0][0] < now_s - SPAN_S:
            self._recent.popleft()
