"""Which claim group may claim for the next free slot, if several would take every slot."""

from __future__ import annotations

from collections.abc import Callable

from tq_worker.broker.claim_groups import ClaimGroup

TURN_S = 0.5
"""How long a claim group with a limit waits before a slot is left to it."""


class SlotFairness:
    """Leaves slots to claim groups with a limit, which the group of all other types would take.

    What the brokers hold of each is not known: one that has waited is left a slot for the time of
    one claim that does not wait, and then waits again.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._since_s: dict[ClaimGroup, float] = {}

    def wants(self, claim_group: ClaimGroup) -> None:
        """It could run a task, and finds no slot."""
        self._since_s.setdefault(claim_group, self._now_s())

    def had(self, claim_group: ClaimGroup) -> bool:
        """It makes a claim, or has no use for a slot; True if it had waited."""
        return self._since_s.pop(claim_group, None) is not None

    def owed(self, *, solo: bool) -> int:
        """How many slots are to be left to those that have waited for long enough."""
        since_s = self._now_s() - TURN_S
        return sum(
            waited_s <= since_s for each, waited_s in self._since_s.items() if each.solo is solo
        )
