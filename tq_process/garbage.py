"""The garbage collector, in a process whose event loop must not be blocked for long.

CPython examines its oldest objects all at once, whenever their number has grown by a quarter. Each
waiting call is sixty objects, and ten thousand objects block the loop for 1.5 to 3 ms. A broker
leaves no garbage there (its calls, batches and leases contain no reference cycles), so that
collection is made rarely, and the more rarely the longer it took.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 60.0
SHARE: Final = 1e-4
"""The share of time for full collections, at most."""
_NEVER: Final = 1 << 30


class OldGarbage:
    """Runs full collections on a timer instead of CPython's own rule."""

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
        """Collect once, freeze the present objects, and collect the others from time to time."""
        youngest, young, _ = gc.get_threshold()
        gc.set_threshold(youngest, young, _NEVER)
        # The objects of the imports alone would take 75 ms each time.
        self._collect()
        gc.freeze()
        self._wait(0.0)

    def end(self) -> None:
        """Stop, and leave full collections to CPython again."""
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
