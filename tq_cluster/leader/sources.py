"""The kinds of the leader's own work: expired leases, timed work of features, single operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Final

from tq_cluster.core.kernel.feature import Instants, Slice, TimedWork
from tq_cluster.core.model.namespaces import Namespaces
from tq_cluster.core.model.operations import Caller, ExpireLeases, Lease, Operation
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.leader.leases import LeaseTable

_ALL: Final = 0
"""The number that stands for all items of a kind without numbers."""
QUIET_MS_MAX: Final = 1_000
"""How long at most a source is believed to have nothing to do without a look at the state: in a
quiet cluster request ids come of age without an entry, and a new namespace may begin.
"""
STAYS_MAX: Final = 4
"""How often a namespace may keep its turn for an item that is still to be done: tried in company,
alone, and as the only item, it is passed over or decided.
"""


class ExpiredLeases:
    """Leases whose workers were silent for too long."""

    kind = "leases"
    pause_s = 0.0

    def __init__(self, leases: LeaseTable) -> None:
        self._leases = leases

    def first(self, passed_over: Collection[int]) -> int | None:
        return next((lease.token for lease in self._expired(1, passed_over)), None)

    def quiet_s(self) -> float:
        return math.inf  # a lease lasts seconds: the ticker looks often enough

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:
        expired = self._expired(items_max + 1, passed_over)
        if not expired:  # the loop was held up since the look: none is past its deadline now
            return ExpireLeases(leases=())
        # Those of one namespace, that of the first: others come first once these have ended.
        namespace = expired[0].namespace
        leases = [lease for lease in expired[:items_max] if lease.namespace == namespace]
        more = len(expired) > len(leases)
        return ExpireLeases(leases=leases, more=more, caller=Caller(namespace=namespace))

    def _expired(self, most: int, passed_over: Collection[int]) -> list[Lease]:
        expired = self._leases.expired(most + len(passed_over))
        return [lease for lease in expired if lease.token not in passed_over][:most]


class InTurns:
    """Timed work of a feature: one namespace at a time, all of them by turns."""

    def __init__(
        self,
        work: TimedWork,
        namespaces: Namespaces,
        view: Callable[[], View],
        applied: Callable[[], AppliedAt],
        instants: Callable[[], Instants],
    ) -> None:
        """``applied`` returns the last entry that ``view`` shows."""
        self.kind = work.kind
        self.pause_s = work.pause_s
        self._work = work
        self._namespaces = namespaces
        self._view = view
        self._applied = applied
        self._instants = instants
        self._nothing_in: AppliedAt | None = None
        """The state in which ``first`` last found nothing."""
        self._nothing_until_ms: int | None = None
        """The log time until which nothing becomes due in that state; None: not known yet."""
        self._found: tuple[int, int] | None = None
        """The namespace in which ``first`` has found an item, and its number."""
        self._last: tuple[int, int] | None = None
        """The same of the last operation."""
        self._stayed = 0
        """How many operations in a row began with that item, after the first."""

    def first(self, passed_over: Collection[int]) -> int | None:
        """Return the number of the first item of the next namespace that has any."""
        if not passed_over and self._is_quiet():
            return None
        view = self._view()
        rest: tuple[int, int] | None = None
        for namespace in self._from_the_last():
            number = self._first_in(Scope.of(view, namespace), passed_over)
            if number is None:
                continue
            found = namespace, number
            if self._is_over(found):
                rest = found
                continue
            self._found = found
            return number
        if rest is None:
            if not passed_over:
                self._nothing_in, self._nothing_until_ms = self._applied(), None
            return None
        self._found = rest
        return rest[1]

    def _is_quiet(self) -> bool:
        """Whether nothing is due, as far as can be said without looking again.

        The instant of the next item is read at the second look into the same state: a state that
        changes all the time is not asked for it.
        """
        if self._nothing_in is None or self._nothing_in != self._applied():
            return False
        at = self._instants()
        if self._nothing_until_ms is None:
            view = self._view()
            scopes = (Scope.of(view, namespace) for namespace in self._namespaces.numbers)
            waits_ms = (self._work.next_in_ms(scope, at) for scope in scopes)
            soonest_ms = min((each for each in waits_ms if each is not None), default=QUIET_MS_MAX)
            self._nothing_until_ms = at.now_ms + min(soonest_ms, QUIET_MS_MAX)
        return at.now_ms < self._nothing_until_ms

    def quiet_s(self) -> float:
        if self._nothing_until_ms is None or self._nothing_in != self._applied():
            return 0.0
        return max(0, self._nothing_until_ms - self._instants().now_ms) / 1000

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:
        assert self._found is not None, "nothing was found"
        self._stayed = self._stayed + 1 if self._found == self._last else 0
        self._last = self._found
        namespace, _ = self._found
        others = (each for each in self._namespaces.numbers if each != namespace)
        view = self._view()
        more = any(self._first_in(Scope.of(view, each), passed_over) is not None for each in others)
        return self._work.operation(
            Slice(items_max, passed_over, more, Caller(namespace=namespace))
        )

    def _is_over(self, found: tuple[int, int]) -> bool:
        """Whether a namespace has had its turn: the others' items go before this one.

        Not if it is the last operation's first item: it may not be decidable, and is then tried
        again, alone at last. An item that only comes back may not keep the turn.
        """
        if self._last is None or self._last[0] != found[0]:
            return False
        return self._last != found or self._stayed >= STAYS_MAX

    def _from_the_last(self) -> Sequence[int]:
        """Return all namespaces, beginning with that of the last operation."""
        numbers = self._namespaces.numbers
        if self._last is None or self._last[0] not in numbers:
            return numbers
        at = numbers.index(self._last[0])
        return [*numbers[at:], *numbers[:at]]

    def _first_in(self, scope: Scope[View], passed_over: Collection[int]) -> int | None:
        return self._work.first(scope, self._instants(), passed_over)


class Chore:
    """Work that is one operation at a time, not many items of a kind."""

    pause_s = 0.0

    def __init__(
        self,
        kind: str,
        ask: Callable[[], Operation | None],
        begun: Callable[[], None] = lambda: None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """``ask`` returns the operation to do, if any, however often; ``begun`` notes its start.

        While ``busy`` holds, operations follow each other at short intervals.
        """
        self.kind = kind
        self._ask = ask
        self._begun = begun
        self._busy = busy
        self._found: Operation | None = None

    def first(self, passed_over: Collection[int]) -> int | None:
        self._found = None if passed_over else self._ask()
        return None if self._found is None else _ALL

    def quiet_s(self) -> float:
        return 0.0 if self._busy() else math.inf

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:  # noqa: ARG002
        assert self._found is not None, f"{self.kind}: nothing was found"
        self._begun()
        return self._found
