"""Whether brokers answer, so that a disconnected worker can be told from an idle one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Liveness:
    """Notes since when claims have been unanswered, and when one is answered."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._asked_s: float | None = None
        self.answers = 0
        self.first = asyncio.Event()
        """Set once a broker has answered a claim."""

    def asked(self) -> None:
        """Note that a claim is about to be made."""
        if self._asked_s is None:
            self._asked_s = self._now_s()

    def answered(self) -> None:
        """Note that a claim was answered, with tasks or without."""
        self._asked_s = None
        self.answers += 1
        self.first.set()

    def start_over(self) -> None:
        """Measure the silence from now on."""
        if self._asked_s is not None:
            self._asked_s = self._now_s()

    def silence_s(self) -> float:
        """For how long claims, repeated or not, have had no answer; 0 after an answer."""
        return 0.0 if self._asked_s is None else self._now_s() - self._asked_s
