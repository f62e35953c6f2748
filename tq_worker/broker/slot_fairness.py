"""Which claim group may claim for the next free slot, if several want every slot."""

from __future__ import annotations

from collections.abc import Callable

from tq_worker.broker.claim_groups import ClaimGroup

TURN_S = 0.5
"""How long a claim group with a limit waits before a slot is reserved for it."""


class SlotFairness:
    """Reserves slots for claim groups with a limit, before other types take them all.

    The worker does not know which tasks the brokers have. So a group that has waited gets a slot
    for one claim, which does not wait for tasks, and then waits again.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._since_s: dict[ClaimGroup, float] = {}

    def wants(self, claim_group: ClaimGroup) -> None:
        """Note that a group could run a task but finds no slot."""
        self._since_s.setdefault(claim_group, self._now_s())

    def had(self, claim_group: ClaimGroup) -> bool:
        """Note that a group claims, or needs no slot; True if it had waited."""
        return self._since_s.pop(claim_group, None) is not None

    def owed(self, *, solo: bool) -> int:
        """How many slots are reserved for groups that have waited long enough."""
        since_s = self._now_s() - TURN_S
        return sum(
            waited_s <= since_s for each, waited_s in self._since_s.items() if each.solo is solo
        )
