"""The deadlines of live leases, in the leader's memory.

Renewals stay out of the log, as etcd's do: a heartbeat moves a deadline here, and only an expiry
becomes an entry. The table dies with the reign; a new leader starts every running lease afresh, so
a failover expires none.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

from tq_cluster.core.operations import Lease
from tq_cluster.core.types import FencingToken

STALL_S = 0.05
"""A pass that comes later than expected by more than this was held up, and heartbeats with it."""


class LeaseTable:
    """Deadlines by fencing token, on a clock that stands still while this process does."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._stalled_s = 0.0
        self._passed_at_s: float | None = None
        self._late_from_s = math.inf
        """From when on the next pass is late."""
        self._leases: dict[FencingToken, Lease] = {}
        self._deadline_s: dict[FencingToken, float] = {}
        self._by_deadline: list[tuple[float, FencingToken]] = []

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, token: object) -> bool:
        return token in self._leases

    def clear(self) -> None:
        """Forget everything: the reign is over."""
        self._leases.clear()
        self._deadline_s.clear()
        self._by_deadline.clear()
        self._passed_at_s = None
        self._late_from_s = math.inf

    def now_s(self) -> float:
        """The clock that deadlines are on: the loop's, less the time it was held up."""
        return self._now_s() - self._stalled_s

    def note_pass(self, interval_s: float) -> None:
        """Tell that the loop came by, as it should every ``interval_s``.

        After a stall every deadline moves by its length: the heartbeats that came meanwhile still
        wait in the sockets, and their senders were not silent.
        """
        at_s = self._now_s()
        if self._passed_at_s is not None:
            late_s = at_s - self._passed_at_s - interval_s
            if late_s > STALL_S:
                self._stalled_s += late_s
        self._passed_at_s = at_s
        self._late_from_s = at_s + interval_s + STALL_S

    def grant(self, lease: Lease) -> None:
        """Start a lease, or start it afresh, from now."""
        token = lease.token
        if token not in self._leases:
            self._leases[token] = lease
            deadline_s = self.now_s() + lease.length_ms / 1000
            self._deadline_s[token] = deadline_s
            heapq.heappush(self._by_deadline, (deadline_s, token))
        else:
            self._renew(token, self.now_s())

    def renew(self, tokens: Iterable[FencingToken], from_s: float) -> None:
        """Restore these leases to their full length from ``from_s``, on this table's clock."""
        for token in tokens:
            if token in self._leases:
                self._renew(token, from_s)

    def end(self, token: FencingToken) -> None:
        """Forget a lease that an entry has ended."""
        self._leases.pop(token, None)
        self._deadline_s.pop(token, None)

    def expired(self, most: int) -> list[Lease]:
        """The leases past their deadlines, at most ``most``; they stay until an entry ends them.

        None while a pass is overdue: it will find that the loop was held up, and what comes before
        it in the same turn must not take the time for the workers' silence.
        """
        if self._now_s() > self._late_from_s:
            return []
        now_s = self.now_s()
        found: list[Lease] = []
        again: list[tuple[float, FencingToken]] = []
        while self._by_deadline and self._by_deadline[0][0] <= now_s and len(found) < most:
            _, token = heapq.heappop(self._by_deadline)
            lease = self._leases.get(token)
            if lease is None:
                continue
            deadline_s = self._deadline_s[token]
            again.append((deadline_s, token))
            if deadline_s <= now_s:
                found.append(lease)
        for each in again:
            heapq.heappush(self._by_deadline, each)
        return found

    def _renew(self, token: FencingToken, from_s: float) -> None:
        # The heap keeps the old instant; expired() looks here before it believes it.
        deadline_s = from_s + self._leases[token].length_ms / 1000
        self._deadline_s[token] = max(self._deadline_s[token], deadline_s)
