"""A resource that callers share, so that none can take all of it."""

from __future__ import annotations

EAGERNESS = 2
"""A caller may hold so many times what is free: at most two thirds of what the others leave, so
that something remains for the next. Once the first ones have given back what is over their share, n
of them hold 2/(2n+1) each (A. K. Choudhury and E. L. Hahne, "Dynamic Queue Length Thresholds for
Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking, 1998).
"""


class Shared:
    """An amount of a resource, of which each caller holds a part."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        """Its name in refusals and metrics."""
        self.limit = limit
        self.held = 0
        self.refused = 0
        """How often a caller was refused."""
        self._by_caller: dict[str, int] = {}

    def of(self, caller: str) -> int:
        """Return how much ``caller`` holds."""
        return self._by_caller.get(caller, 0)

    def fits(self, caller: str, amount: int) -> bool:
        """Whether ``caller`` may hold so much more."""
        free = self.limit - self.held - amount
        return self.of(caller) + amount <= EAGERNESS * free

    def take(self, caller: str, amount: int) -> bool:
        """Give ``caller`` so much more, if its share allows it."""
        if not self.fits(caller, amount):
            self.refused += 1
            return False
        self.add(caller, amount)
        return True

    def add(self, caller: str, amount: int) -> None:
        """Give ``caller`` so much more, even if it is over its share."""
        self.held += amount
        self._by_caller[caller] = self.of(caller) + amount

    def give_back(self, caller: str, amount: int) -> None:
        """Take so much back from ``caller``."""
        self.held -= amount
        left = self._by_caller[caller] - amount
        if left:
            self._by_caller[caller] = left
        else:
            del self._by_caller[caller]
