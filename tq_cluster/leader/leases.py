"""The deadlines of live leases, in the leader's memory.

Renewals stay out of the log, as etcd's do: a heartbeat moves a deadline here, and only an expiry
becomes an entry. The table ends with the leadership; a new leader restarts every running lease, so
a failover expires none.

Deadlines are kept in a wheel of short slots of time. A lease is in one slot at a time and leaves it
when it ends, so the table is never larger than the number of live leases; a heap would keep an
ended lease until its deadline. A renewal changes only the deadline: once its slot has passed, the
lease moves to a later one.

Each field of a lease has a dictionary of its own that holds only numbers and strings, which the
garbage collector does not traverse. With one object for each of a hundred thousand leases, every
full collection would hold the event loop for 100 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from tq_cluster.core.model.operations import Lease
from tq_cluster.core.model.types import DurationMs, FencingToken, TaskId, TaskNumber

STALL_S = 0.05
"""If a pass is late by more than this, the loop was held up, and heartbeats with it."""
SLOT_S: Final = 0.02
LOOKED_AT_MAX: Final = 2_000
"""How many leases one look checks at most to find those past their deadlines."""
_OVERDUE: Final = -1
"""The place of a lease that is past its deadline."""


class LeaseTable:
    """Deadlines by fencing token, on a clock that stops while this process is stalled."""

    def __init__(
        self,
        now_s: Callable[[], float],
        drop: Callable[[dict[Any, Any]], None] = dict.clear,
    ) -> None:
        """``drop`` empties a dictionary that may be large."""
        self._now_s = now_s
        self._drop = drop
        self._stalled_s = 0.0
        self._pass_at_s = math.inf
        """When the next pass of the loop is expected."""
        self._begin()

    def _begin(self) -> None:
        self._numbers: dict[FencingToken, TaskNumber] = {}
        self._task_ids: dict[FencingToken, TaskId] = {}
        self._lengths_ms: dict[FencingToken, DurationMs] = {}
        self._namespaces: dict[FencingToken, int] = {}
        self._deadlines_s: dict[FencingToken, float] = {}
        """When each lease ends unless it is renewed."""
        self._places: dict[FencingToken, int] = {}
        """The slot of each lease."""
        self._slots: dict[int, dict[FencingToken, None]] = {}
        """Only slots that hold leases."""
        self._slot = 0
        """No earlier slot holds any leases."""
        self._overdue: dict[FencingToken, None] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, token: object) -> bool:
        return token in self._places

    def entries(self) -> int:
        """Return how many entries the table holds."""
        return len(self._overdue) + sum(map(len, self._slots.values()))

    def clear(self) -> None:
        """Forget everything: the leadership is over."""
        for each in (
            self._numbers,
            self._task_ids,
            self._lengths_ms,
            self._namespaces,
            self._deadlines_s,
            self._places,
            self._slots,
            self._overdue,
        ):
            self._drop(each)
        self._begin()
        self._pass_at_s = math.inf

    def now_s(self) -> float:
        """Return the time that deadlines use: the loop's, less the time it was held up."""
        return self._now_s() - self._stalled_s

    def expect_pass(self, at_s: float) -> None:
        """Expect the next pass of the loop at this instant of its clock."""
        self._pass_at_s = at_s

    def note_pass(self) -> None:
        """Note that the expected pass of the loop has come.

        After a stall every deadline moves by the length of the stall: heartbeats that arrived
        meanwhile still wait in the sockets, so their senders were not silent.
        """
        late_s = self._now_s() - self._pass_at_s
        if late_s > STALL_S:
            self._stalled_s += late_s
        self._pass_at_s = math.inf

    def grant(self, lease: Lease) -> None:
        """Start a lease, or restart it, from now."""
        token, number, task_id, length_ms, namespace = lease
        if token in self._places:
            self._renew(token, self.now_s())
            return
        self._numbers[token] = number
        self._task_ids[token] = task_id
        self._lengths_ms[token] = length_ms
        self._namespaces[token] = namespace
        self._deadlines_s[token] = self.now_s() + length_ms / 1000
        self._place(token)

    def renew(self, tokens: Iterable[FencingToken], from_s: float) -> None:
        """Restore these leases to their full length from ``from_s``, on this table's clock."""
        for token in tokens:
            if token in self._places:
                self._renew(token, from_s)

    def end(self, token: FencingToken) -> None:
        """Forget a lease that an entry has ended."""
        if token in self._places:
            self._displace(token)
            del self._numbers[token], self._task_ids[token], self._lengths_ms[token]
            del self._namespaces[token], self._deadlines_s[token], self._places[token]

    def expired(self, most: int) -> list[Lease]:
        """Return up to ``most`` leases past their deadlines; they stay until an entry ends them.

        Returns none while a pass is overdue. That pass will find that the loop was held up, and
        code that runs before it in the same turn must not mistake the stall for silence of the
        workers.
        """
        if self._now_s() > self._pass_at_s + STALL_S:
            return []
        now_s = self.now_s()
        if len(self._overdue) < most:
            self._turn_to(now_s)
        return [
            Lease(
                token,
                self._numbers[token],
                self._task_ids[token],
                self._lengths_ms[token],
                self._namespaces[token],
            )
            for token in islice(self._overdue, most)
            if self._deadlines_s[token] <= now_s
        ]

    def _renew(self, token: FencingToken, from_s: float) -> None:
        deadline_s = from_s + self._lengths_ms[token] / 1000
        self._deadlines_s[token] = max(self._deadlines_s[token], deadline_s)
        if self._places[token] == _OVERDUE:
            self._displace(token)
            self._place(token)

    def _place(self, token: FencingToken) -> None:
        # Not into a slot that has passed already: it is not looked at again.
        slot = self._places[token] = max(self._slot, int(self._deadlines_s[token] / SLOT_S))
        self._slots.setdefault(slot, {})[token] = None

    def _displace(self, token: FencingToken) -> None:
        slot = self._places[token]
        if slot == _OVERDUE:
            del self._overdue[token]
            return
        tokens = self._slots[slot]
        del tokens[token]
        if not tokens:
            del self._slots[slot]

    def _turn_to(self, now_s: float) -> None:
        """Check the slots up to this instant's, at most ``LOOKED_AT_MAX`` leases.

        A lease past its deadline becomes overdue; one that was renewed meanwhile moves to a later
        slot.
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
            # From the end: taking the first item of a long dictionary again and again is slow.
            for token in list(islice(reversed(tokens), left)):
                left -= 1
                deadline_s = self._deadlines_s[token]
                if deadline_s <= now_s:
                    self._displace(token)
                    self._places[token] = _OVERDUE
                    self._overdue[token] = None
                elif int(deadline_s / SLOT_S) > self._slot:
                    self._displace(token)
                    self._place(token)
            if self._slot in self._slots:
                return  # the rest ends within this slot, or exceeds one look
