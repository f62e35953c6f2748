"""Whether brokers answer: what tells a worker that is deaf from one that has nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Liveness:
    """Notes when a claim was first asked for in vain, and when one was answered."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._asked_s: float | None = None
        self.answers = 0
        self.first = asyncio.Event()
        """Set once a broker has answered at all."""

    def asked(self) -> None:
        """A claim is about to be made."""
        if self._asked_s is None:
            self._asked_s = self._now_s()

    def answered(self) -> None:
        """One came back, with tasks or without."""
        self._asked_s = None
        self.answers += 1
        self.first.set()

    def start_over(self) -> None:
        """Count from now on."""
        if self._asked_s is not None:
            self._asked_s = self._now_s()

    def silence_s(self) -> float:
        """For how long a claim has been made, repeated or not, without any being answered."""
        return 0.0 if self._asked_s is None else self._now_s() - self._asked_s
