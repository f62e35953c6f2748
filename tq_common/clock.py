"""The clock for leases."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_get_s = time.clock_gettime


def boottime_s() -> float:
    """Return seconds on CLOCK_BOOTTIME.

    It runs on while the machine sleeps, as the leases at the brokers do.
    """
    return _get_s(_CLOCK)
