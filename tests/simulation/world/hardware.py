"""The parts of a simulated machine beside its disk: clocks, and the time of an fsync."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.world.virtual_loop import HostLoop, VirtualLoop

USUAL_FSYNC_S = (0.0002, 0.004)


@dataclass
class Oscillator:
    """The oscillator of a machine's clocks while it has power."""

    started_s: float = 0.0
    rate: float = 1.0

    @classmethod
    def drawn(cls, draw: random.Random) -> Oscillator:
        """Draw an oscillator: two of them differ in rate by less than 1 %."""
        return cls(draw.uniform(0, 1e6), draw.uniform(0.9951, 1.0049))


@dataclass
class WallClock:
    """A machine's clocks: the wall clock is off, and can be set."""

    loop: VirtualLoop
    offset_ms: int
    oscillator: Oscillator = field(default_factory=Oscillator)

    def monotonic_s(self) -> float:
        return self.oscillator.started_s + self.oscillator.rate * self.loop.time()

    def wall_ms(self) -> int:
        running_ms = int(self.oscillator.rate * self.loop.time() * 1000)
        return 1_700_000_000_000 + self.offset_ms + running_ms


class SlowSyncer:
    """Implements ``syncer.Syncer``: each job takes a while, and a dead process finishes none."""

    def __init__(self, loop: HostLoop, draw: random.Random) -> None:
        self.delay_s = USUAL_FSYNC_S
        self._loop = loop
        self._draw = draw
        self._job: Callable[[], None] | None = None
        self._done: Callable[[BaseException | None], None] | None = None

    def run(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        assert self._job is None, "one job at a time"
        self._job, self._done = job, done
        self._loop.call_later(self._draw.uniform(*self.delay_s), self._end, job)

    def finish(self) -> None:
        if self._job is not None:
            self._end(self._job)

    def _end(self, job: Callable[[], None]) -> None:
        if self._job is not job:
            return
        done, self._job, self._done = self._done, None, None
        assert done is not None
        try:
            job()
        except OSError as error:
            done(error)
        else:
            done(None)

    def interrupted(self) -> Callable[[], None] | None:
        """Return the job that was under way; its end is never reported."""
        job, self._job = self._job, None
        return job
