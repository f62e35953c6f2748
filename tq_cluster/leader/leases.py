"""The deadlines of live leases, in the leader's memory.

Renewals stay out of the log, as etcd's do: a heartbeat moves a deadline here, and only an expiry
becomes an entry. The table dies with the reign; a new leader starts every running lease afresh, so
a failover expires none.

Deadlines stand in a wheel of short slots of time. A lease is in one place at a time and leaves it
when it ends, so the table is never larger than what lives; a heap would keep an ended lease until
its deadline. A renewal changes the deadline alone: once its slot has passed, the lease moves on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from tq_cluster.core.operations import Lease
from tq_cluster.core.types import FencingToken

STALL_S = 0.05
"""A pass that comes later than expected by more than this was held up, and heartbeats with it."""
SLOT_S: Final = 0.02
LOOKED_AT_MAX: Final = 2_000
"""How many leases one look goes through at most, to find those past their deadlines."""
_OVERDUE: Final = -1
"""The place of a lease that is past its deadline."""


@dataclass(slots=True)
class _Held:
    """A live lease: when it ends unless it is renewed, and the slot that it stands in."""

    lease: Lease
    deadline_s: float
    slot: int = _OVERDUE


class LeaseTable:
    """Deadlines by fencing token, on a clock that stands still while this process does."""

    def __init__(
        self,
        now_s: Callable[[], float],
        drop: Callable[[dict[Any, Any]], None] = dict.clear,
    ) -> None:
        """``drop`` empties a dictionary that may be large."""
        self._now_s = now_s
        self._drop = drop
        self._stalled_s = 0.0
        self._passed_at_s: float | None = None
        self._late_from_s = math.inf
        """From when on the next pass is late."""
        self._held: dict[FencingToken, _Held] = {}
        self._slots: dict[int, dict[FencingToken, None]] = {}
        """Those that hold leases."""
        self._slot = 0
        """No earlier slot holds any."""
        self._overdue: dict[FencingToken, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, token: object) -> bool:
        return token in self._held

    def entries(self) -> int:
        """How many places the table takes up."""
        return len(self._overdue) + sum(map(len, self._slots.values()))

    def clear(self) -> None:
        """Forget everything: the reign is over."""
        for each in self._held, self._slots, self._overdue:
            self._drop(each)
        self._held, self._slots, self._overdue = {}, {}, {}
        self._slot = 0
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
        held = self._held.get(lease.token)
        if held is None:
            held = self._held[lease.token] = _Held(lease, self.now_s() + lease.length_ms / 1000)
            self._place(held)
        else:
            self._renew(held, self.now_s())

    def renew(self, tokens: Iterable[FencingToken], from_s: float) -> None:
        """Restore these leases to their full length from ``from_s``, on this table's clock."""
        for token in tokens:
            held = self._held.get(token)
            if held is not None:
                self._renew(held, from_s)

    def end(self, token: FencingToken) -> None:
        """Forget a lease that an entry has ended."""
        held = self._held.pop(token, None)
        if held is not None:
            self._displace(held)

    def expired(self, most: int) -> list[Lease]:
        """The leases past their deadlines, at most ``most``; they stay until an entry ends them.

        None while a pass is overdue: it will find that the loop was held up, and what comes before
        it in the same turn must not take the time for the workers' silence.
        """
        if self._now_s() > self._late_from_s:
            return []
        now_s = self.now_s()
        if len(self._overdue) < most:
            self._turn_to(now_s)
        found = (self._held[token] for token in islice(self._overdue, most))
        return [held.lease for held in found if held.deadline_s <= now_s]

    def _renew(self, held: _Held, from_s: float) -> None:
        held.deadline_s = max(held.deadline_s, from_s + held.lease.length_ms / 1000)
        if held.slot == _OVERDUE:
            self._displace(held)
            self._place(held)

    def _place(self, held: _Held) -> None:
        # Not into a slot that is passed already: nobody would look there again.
        held.slot = max(self._slot, int(held.deadline_s / SLOT_S))
        self._slots.setdefault(held.slot, {})[held.lease.token] = None

    def _displace(self, held: _Held) -> None:
        if held.slot == _OVERDUE:
            del self._overdue[held.lease.token]
            return
        tokens = self._slots[held.slot]
        del tokens[held.lease.token]
        if not tokens:
            del self._slots[held.slot]

    def _turn_to(self, now_s: float) -> None:
        """Look through the slots up to this instant's, or as many of their leases as are allowed.

        What is past its deadline becomes overdue; what was renewed meanwhile moves on.
        """
        current = int(now_s / SLOT_S)
        left = LOOKED_AT_MAX
        while left > 0 and self._slots and self._slot <= current:
            tokens = self._slots.get(self._slot)
            if tokens is None:
                if self._slot == current:
                    return
                far = current - self._slot > len(self._slots)
                self._slot = min(current, *self._slots) if far else self._slot + 1
                continue
            # The last first: to take the first of a long dictionary again and again is slow.
            for token in list(islice(reversed(tokens), left)):
                left -= 1
                held = self._held[token]
                if held.deadline_s <= now_s:
                    self._displace(held)
                    held.slot = _OVERDUE
                    self._overdue[token] = None
                elif int(held.deadline_s / SLOT_S) > self._slot:
                    self._displace(held)
                    self._place(held)
            if self._slot in self._slots:
                return  # what is left there ends within this slot, or was too much for one look
