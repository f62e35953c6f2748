"""Who leads, as far as this node knows, and when that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tq_cluster.raft.log_api import Log, LogStatus, Role


@dataclass(frozen=True, slots=True)
class KnownLeader:
    """The leader of a term."""

    node_id: str
    address: str
    """host:port of its API."""
    term: int
    here: bool
    """Whether it is this node."""


class Roles:
    """Follows the log's role changes."""

    def __init__(self, log: Log, node_id: str, apis: Mapping[str, str]) -> None:
        """``apis`` holds every member's API address by node id."""
        self._node_id = node_id
        self._apis = apis
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners: list[Callable[[KnownLeader | None], None]] = []
        self.version = 0
        """Rises with every change."""
        self._status = log.status()
        self._known = self._read(self._status)
        log.on_role_change(self._changed)

    @property
    def term(self) -> int:
        """The term this node is in."""
        return self._status.term

    @property
    def is_stranger(self) -> bool:
        """Whether this node knows that it is not a member of its peers' cluster.

        Then no leader becomes known to it until it is put in a member's place.
        """
        return self._status.role is Role.STRANGER

    def leader(self, min_term: int = 0) -> KnownLeader | None:
        """Return the leader; None if none is known, or only one of a term below ``min_term``."""
        known = self._known
        return known if known is not None and known.term >= min_term else None

    def on_leader(self, listener: Callable[[KnownLeader | None], None]) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    async def changed(self, since: int, within_s: float) -> None:
        """Return at the next change after version ``since``, or after ``within_s``."""
        if self.version == since and within_s > 0:
            await asyncio.wait([self._next], timeout=within_s)

    def nudge(self) -> None:
        """Make all calls that wait for a change check again."""
        self.version += 1
        woken, self._next = self._next, asyncio.get_running_loop().create_future()
        woken.set_result(None)

    def _changed(self, status: LogStatus) -> None:
        self._status = status
        self._known = self._read(status)
        self.nudge()
        for listener in self._listeners:
            listener(self._known)

    def _read(self, status: LogStatus) -> KnownLeader | None:
        here = status.role is Role.LEADER
        node_id = self._node_id if here else status.leader_id
        if node_id is None or (node_id == self._node_id and not here):
            return None
        address = self._apis.get(node_id)
        if address is None:
            return None
        return KnownLeader(node_id, address, status.term, here)
