"""Rate-limited log lines for events that strangers can cause: one of a kind a minute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

EVERY_S = 60.0


class Sparing:
    """Writes the first line of each kind, then one a minute that says how many were left out.

    Kinds are the program's own words, never a caller's input: there are few of them.
    """

    def __init__(
        self, logger: logging.Logger, now_s: Callable[[], float], every_s: float = EVERY_S
    ) -> None:
        self._logger = logger
        self._now_s = now_s
        self._every_s = every_s
        self._written_s: dict[str, float] = {}
        self._between: dict[str, int] = {}

    def warning(self, event: str, extra: Mapping[str, object]) -> bool:
        """Write ``event``, unless it was written less than a minute ago; return whether it was."""
        now_s = self._now_s()
        if now_s < self._written_s.get(event, float("-inf")) + self._every_s:
            self._between[event] = self._between.get(event, 0) + 1
            return False
        self._written_s[event] = now_s
        between = self._between.pop(event, 0)
        self._logger.warning(event, extra={**extra, **({"not_shown": between} if between else {})})
        return True
