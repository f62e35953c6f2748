"""Whether a majority's states differ from this node's own, as far as this node itself can see.

The leader tells a node whose state differs to stop, and started again it sets that state aside. No
leader is taken at its word for it: every node tells all others what the ranges came to that entries
name, and stops only if more than half of all members agreed on something else.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

RANGES_KEPT: Final = 256
"""Of each node, the latest."""


class Witness:
    """What each node's ranges came to."""

    def __init__(self, *, members: int) -> None:
        self._members = members
        self._own: dict[int, bytes] = {}
        self._heard: dict[str, dict[int, bytes]] = {}
        self.accused: str | None = None
        """What the leader said when it told this node to stop."""

    def own(self, index: int, digest: bytes) -> None:
        """Remember what the range that the entry names came to here."""
        _keep(self._own, index, digest)

    def heard(self, peer_id: str, index: int, digest: bytes) -> None:
        """Remember what it came to on a peer, which has said so itself."""
        _keep(self._heard.setdefault(peer_id, {}), index, digest)

    def outvoted(self) -> bool:
        """Whether for any range a majority of all members agrees on what is not this node's."""
        for index, own in self._own.items():
            others = Counter(ranges[index] for ranges in self._heard.values() if index in ranges)
            if any(
                digest != own and count > self._members // 2 for digest, count in others.items()
            ):
                return True
        return False


def _keep(ranges: dict[int, bytes], index: int, digest: bytes) -> None:
    ranges.pop(index, None)
    ranges[index] = digest
    if len(ranges) > RANGES_KEPT:
        del ranges[next(iter(ranges))]
