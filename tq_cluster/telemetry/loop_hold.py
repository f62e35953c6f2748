"""Measures how long anything held the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tq_cluster.beats import BEAT_S, next_beat_s
from tq_cluster.telemetry.pairs import Pairs

FINE_BEAT_S: Final = 0.002
"""The interval while holds are watched: the precision of a measured hold."""
SPAN_S: Final = 60.0


class Hold(NamedTuple):
    """The longest holds of a span, in seconds."""

    wall_s: float
    """Wall time: what a caller waits."""
    cpu_s: float
    """Processor time of the loop's thread: its own work. Time of other processes on the processor,
    or of other threads with the interpreter, is not included.
    """


class LoopHold:
    """Beats on the loop and records how late each beat comes.

    A beat that is due while something holds the loop runs only when the hold ends, so its lateness
    is at most the length of the hold and at least that less one beat. Time in which the machine did
    not run the process counts, too, except in the processor time of the loop's thread.
    """

    def __init__(
        self, observe: Callable[[float], None], cpu_s: Callable[[], float] = time.thread_time
    ) -> None:
        """``observe`` receives every beat's lateness; ``cpu_s`` returns this thread's CPU time."""
        self._observe = observe
        self._cpu_s = cpu_s
        self._loop = asyncio.get_running_loop()
        self._wall = _Longest()
        self._cpu = _Longest()
        self._due_s = 0.0
        self._cpu_before_s = 0.0
        self._fine_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._await_beat()

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()

    def watch(self) -> None:
        """Beat more often for a minute, to measure holds more precisely."""
        watched, self._fine_until_s = self._watched, self._loop.time() + SPAN_S
        if not watched and self._timer is not None:
            self._timer.cancel()
            self._beat()

    @property
    def beat_s(self) -> float:
        """The interval between two beats now."""
        return FINE_BEAT_S if self._watched else BEAT_S

    @property
    def _watched(self) -> bool:
        return self._loop.time() < self._fine_until_s

    def longest(self, span_s: float = SPAN_S) -> Hold:
        """Return the longest holds of the last ``span_s``, a minute at most."""
        now_s = self._loop.time()
        wall_s, cpu_s = self._held(now_s) if self._timer is not None else (0.0, 0.0)
        since_s = now_s - min(span_s, SPAN_S)
        return Hold(max(wall_s, self._wall.since(since_s)), max(cpu_s, self._cpu.since(since_s)))

    def _held(self, now_s: float) -> Hold:
        """Return how late the due beat is by now."""
        late_s = max(0.0, now_s - self._due_s)
        return Hold(late_s, min(late_s, self._cpu_s() - self._cpu_before_s))

    def _beat(self) -> None:
        now_s = self._loop.time()
        held = self._held(now_s)
        self._observe(held.wall_s)
        self._wall.note(now_s, held.wall_s)
        self._cpu.note(now_s, held.cpu_s)
        self._await_beat()

    def _await_beat(self) -> None:
        now_s = self._loop.time()
        self._due_s = now_s + FINE_BEAT_S if self._watched else next_beat_s(now_s)
        self._cpu_before_s = self._cpu_s()
        self._timer = self._loop.call_at(self._due_s, self._beat)


class _Longest:
    """The longest hold of any span that ends now, up to a minute."""

    def __init__(self) -> None:
        self._recent = Pairs("d")
        """(when, seconds), the seconds falling: the first of a span is its longest."""

    def note(self, now_s: float, seconds: float) -> None:
        recent = self._recent
        while recent and recent.last[1] <= seconds:
            recent.drop_last()
        recent.append(now_s, seconds)
        while recent.first[0] < now_s - SPAN_S:
            recent.drop_first()

    def since(self, since_s: float) -> float:
        return self._recent.second_since(since_s) or 0.0
