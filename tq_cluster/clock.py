"""The clocks a node reads, passed in so that tests and simulations can replace them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never steps; the event loop's own."""

    def wall_ms(self) -> int:
        """Return milliseconds since the Unix epoch, as this machine believes."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """Read CLOCK_MONOTONIC."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Read CLOCK_REALTIME."""
        return time.time_ns() // 1_000_000
