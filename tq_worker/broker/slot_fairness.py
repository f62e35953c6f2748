"""Who may claim for the next free slot, where several demands would take every one."""

from __future__ import annotations

from collections.abc import Callable

from tq_worker.broker.claim_groups import Demand

TURN_S = 0.5
"""So long a demand with a limit waits for a slot before one is left to it."""


class Turns:
    """Leaves slots to demands with a limit, which the one for all the rest would take from them.

    What the brokers hold of each is not known: one that has waited is left a slot for the time of
    one claim that does not wait, and then waits again.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._since_s: dict[Demand, float] = {}

    def wants(self, demand: Demand) -> None:
        """It could run a task, and finds no slot."""
        self._since_s.setdefault(demand, self._now_s())

    def had(self, demand: Demand) -> bool:
        """It makes a claim, or has no use for a slot; True if it had waited."""
        return self._since_s.pop(demand, None) is not None

    def owed(self, *, solo: bool) -> int:
        """How many slots are to be left to those that have waited for long enough."""
        since_s = self._now_s() - TURN_S
        return sum(
            waited_s <= since_s for each, waited_s in self._since_s.items() if each.solo is solo
        )
