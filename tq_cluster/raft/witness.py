"""Whether a majority's states differ from this node's own, as far as this node itself can see.

The leader demands that a node stop if its state differs; when it is started again, the node sets
that state aside. A leader's word is not enough: every node sends all others its hashes of the
ranges that entries name, and stops only if more than half of all members agree on another hash.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

RANGES_KEPT: Final = 256
"""The number of latest ranges kept of each node."""


class Witness:
    """Each node's hashes of the ranges."""

    def __init__(self, *, members: int) -> None:
        self._members = members
        self._own: dict[int, bytes] = {}
        self._heard: dict[str, dict[int, bytes]] = {}
        self.accused: str | None = None
        """The message of a peer that said that this node's state differs; None: no peer did."""

    def own(self, index: int, digest: bytes) -> None:
        """Remember this node's hash of the range that the entry names."""
        _keep(self._own, index, digest)

    def heard(self, peer_id: str, index: int, digest: bytes) -> None:
        """Remember a peer's hash of that range, which the peer itself sent."""
        _keep(self._heard.setdefault(peer_id, {}), index, digest)

    def outvoted(self) -> bool:
        """Whether for any range a majority of all members has the same hash, unlike this node's."""
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
