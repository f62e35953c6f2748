"""Compares the members' hashes of the state at an entry: reports who differs once it is certain.

A member that differs from a majority is wrong. If no majority agrees, it is undecided who is wrong;
the difference is reported, and the next answer may settle it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

PENDING_MAX: Final = 1_000
"""Ranges that wait for an answer; beyond that the oldest are dropped."""
DIFFERENCES_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """A range in which members differ."""

    node_id: str
    """The member that is wrong. Empty: no majority agrees, so it is undecided."""
    index: int
    where: str
    earlier: bool = False
    """Found in an earlier pass."""


@dataclass(slots=True)
class _Range:
    where: str
    digests: dict[str, bytes] = field(default_factory=dict)
    agreed: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    reviewed: bool = False

    def differs_undecided(self, members: int) -> bool:
        """Whether members differ, and it is not certain who is wrong."""
        counted = Counter(self.digests.values())
        return len(counted) > 1 and max(counted.values()) <= members // 2


class Scrub:
    """The ranges of one leadership."""

    def __init__(
        self,
        *,
        node_id: str,
        members: Callable[[], set[str]],
        differs: Callable[[Difference], None],
    ) -> None:
        """``members`` returns all members, self included; ``differs`` gets each difference once."""
        self._node_id = node_id
        self._members = members
        self._differs = differs
        self._ranges: dict[int, _Range] = {}
        self._early: dict[tuple[int, str], bytes] = {}
        """Answers that came before this node had applied the entry itself."""
        self._agreed: Counter[str] = Counter()
        self.differences: list[Difference] = []

    def clear(self) -> None:
        """Start a new leadership: requests of the last one are not answered any more."""
        self._ranges.clear()
        self._early.clear()
        self._agreed.clear()
        self.differences.clear()

    def begin_pass(self) -> None:
        """Start a new pass, which settles what the last one left unanswered or undecided."""
        self._ranges.clear()
        self._agreed.clear()
        self.differences = [replace(each, earlier=True) for each in self.differences]

    def ask(self, index: int, where: str, digest: bytes) -> None:
        """Record this node's own hash of a range; the others' follow."""
        self._ranges[index] = _Range(where)
        while len(self._ranges) > PENDING_MAX:
            del self._ranges[min(self._ranges)]
        self.answer(self._node_id, index, digest)
        early, self._early = self._early, {}
        for (at, node_id), other in early.items():
            self.answer(node_id, at, other)

    def answer(self, node_id: str, index: int, digest: bytes) -> None:
        """Record a member's hash of the range that the entry at ``index`` names."""
        asked = self._ranges.get(index)
        members = self._members()
        if node_id not in members:
            return
        if asked is None:
            if index > max(self._ranges, default=0) and len(self._early) < PENDING_MAX:
                self._early[index, node_id] = digest
            return
        asked.digests[node_id] = digest
        self._judge(index, asked, members)
        if asked.agreed.issuperset(members):
            del self._ranges[index]

    def review(self) -> None:
        """Report undecided differences that were already undecided at the previous review."""
        for index, asked in self._ranges.items():
            if not asked.differs_undecided(len(self._members())):
                continue
            if asked.reviewed and "" not in asked.told:
                self._tell(asked, Difference("", index, asked.where))
            asked.reviewed = True

    def agreed(self, node_id: str) -> int:
        """Return how many ranges of a member agreed with a majority."""
        return self._agreed[node_id]

    def unanswered(self, node_id: str) -> int:
        """Return the newest entry whose hash a member has not sent; 0 for none."""
        owed = [index for index, asked in self._ranges.items() if node_id not in asked.digests]
        return max(owed, default=0)

    def _judge(self, index: int, asked: _Range, members: set[str]) -> None:
        if asked.differs_undecided(len(members)):
            if asked.digests.keys() >= members and "" not in asked.told:
                self._tell(asked, Difference("", index, asked.where))
            return
        [(common, count)] = Counter(asked.digests.values()).most_common(1)
        if count <= len(members) // 2:
            return
        for node_id, digest in asked.digests.items():
            if digest == common and node_id not in asked.agreed:
                asked.agreed.add(node_id)
                self._agreed[node_id] += 1
            elif digest != common and node_id not in asked.told:
                self._tell(asked, Difference(node_id, index, asked.where))

    def _tell(self, asked: _Range, difference: Difference) -> None:
        asked.told.add(difference.node_id)
        self.differences = [*self.differences, difference][-DIFFERENCES_KEPT:]
        self._differs(difference)
