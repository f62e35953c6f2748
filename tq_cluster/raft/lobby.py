"""Connections that are not admitted yet: a limited number, and a limited number from one address.

If there is no place, a new connection replaces the one that has waited longest, of the address that
has most. A peer says who it is within a round trip; an unadmitted node that holds on to its place
does not. So no number of unadmitted nodes at other addresses keeps a peer out.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from tq_cluster.raft.connection import Connection

WAITING_MAX: Final = 64
WAITING_AT_ADDRESS_MAX: Final = 16
ADDRESSES_KEPT: Final = 64


class Lobby:
    """The connections that wait to be admitted, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[Connection, None] = {}
        self._peers: dict[str, None] = {}
        """Addresses from which a peer was admitted, the latest last."""

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, connection: Connection) -> Connection | None:
        """Add a connection; return the one that must be closed for it, if any."""
        address = connection.address
        neighbours = [each for each in self._waiting if each.address == address]
        self._waiting[connection] = None
        if len(neighbours) >= WAITING_AT_ADDRESS_MAX:
            return neighbours[0]
        if len(self._waiting) <= WAITING_MAX:
            return None
        held = Counter(each.address for each in self._waiting)
        # If two addresses hold as many, the one without a known peer gives way.
        greediest = max(held, key=lambda each: (held[each], each not in self._peers))
        return next(each for each in self._waiting if each.address == greediest)

    def leave(self, connection: Connection) -> None:
        """The connection is admitted, or gone."""
        self._waiting.pop(connection, None)

    def trust(self, address: str) -> None:
        """A peer was admitted from that address."""
        self._peers.pop(address, None)
        self._peers[address] = None
        if len(self._peers) > ADDRESSES_KEPT:
            del self._peers[next(iter(self._peers))]
