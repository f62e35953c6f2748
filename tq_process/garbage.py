"""The garbage collector, in a process whose event loop nothing may hold for long.

CPython looks at its oldest objects all at once, and whenever they have become a quarter more: each
call that waits is sixty of them, and ten thousand of them hold the loop for 1.5 to 3 ms. What a
broker does leaves nothing to be found there (its calls, batches and leases are free of circles),
so that look is taken seldom, and the more seldom the longer it took.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 60.0
SHARE: Final = 1e-4
"""Of all time, at most, for looks at the oldest objects."""
_NEVER: Final = 1 << 30


class OldGarbage:
    """Looks at the oldest objects from time to time, from now on."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        collect: Callable[[], object] = gc.collect,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = loop
        self._collect = collect
        self._now_s = now_s
        self._next: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Look once, never again at what is there by now, and at the rest now and then."""
        youngest, young, _ = gc.get_threshold()
        gc.set_threshold(youngest, young, _NEVER)
        # What the imports left alone would take 75 ms each time.
        self._collect()
        gc.freeze()
        self._wait(0.0)

    def end(self) -> None:
        """Leave it to CPython again."""
        if self._next is not None:
            self._next.cancel()
        youngest, young, _ = gc.get_threshold()
        gc.set_threshold(youngest, young, young)

    def _look(self) -> None:
        begun_s = self._now_s()
        self._collect()
        self._wait(self._now_s() - begun_s)

    def _wait(self, took_s: float) -> None:
        self._next = self._loop.call_later(max(EVERY_S, took_s / SHARE), self._look)
