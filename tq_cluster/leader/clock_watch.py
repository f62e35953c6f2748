"""Warns if log time and the members' clocks differ: due times then come early or late."""

from __future__ import annotations

import logging
from typing import Final

from tq_cluster.leader.log_time import SLEW_BACK_MAX, SLEW_MAX, LogTime

_logger = logging.getLogger(__name__)

TOLD_MS: Final = 1_000
"""The difference from which a warning is logged."""
RIGHT_MS: Final = 250
"""The difference below which the end of the warning is logged."""


class ClockWatch:
    """Checks the clocks from time to time while this node leads."""

    def __init__(self, log_time: LogTime) -> None:
        self._log_time = log_time
        self._told = False
        self.message = ""
        """Text for operators; empty while there is no warning."""

    def look(self) -> float:
        """Return by how many seconds log time is ahead of the median of the members' clocks."""
        ahead_ms = self._log_time.ahead_ms()
        apart_ms = abs(ahead_ms)
        if apart_ms >= TOLD_MS and not self._told:
            self._told = True
            _logger.warning("log time is not what the clocks say", extra={"ahead_ms": ahead_ms})
        elif apart_ms <= RIGHT_MS and self._told:
            _logger.info("log time is what the clocks say again")
            self.end()
        self.message = _message(ahead_ms) if self._told else ""
        return ahead_ms / 1000

    def end(self) -> None:
        """Reset the warning, since this node no longer leads."""
        self._told = False
        self.message = ""


def _message(ahead_ms: int) -> str:
    seconds = abs(ahead_ms) / 1000
    if ahead_ms > 0:
        where, when, pace, speed = "ahead of", "early", "slowed down", SLEW_BACK_MAX
    else:
        where, when, pace, speed = "behind", "late", "sped up", SLEW_MAX
    return (
        f"log time is {seconds:.1f} s {where} the members' clocks: run_at and expire_at come"
        f" {when}; it is {pace}, and right in about {seconds / speed:.0f} s"
    )
