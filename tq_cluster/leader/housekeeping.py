"""The leader's own work, beside its callers': what has become due, and the cluster's tasks.

Each kind of work is a source. The committer asks the sources for operations as it puts a batch
together. Every source that has work gets an even share of the room that the batch has left, so none
waits for another, and it continues without a pause while there is more.

An operation that cannot be decided is a fault of the program or of a row. It must not fail the
callers' operations, nor the rest of its kind: the slice is narrowed down to the one faulty item,
which is passed over for a while, longer each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from tq_cluster.core.model.operations import Done, Operation, Outcome

_logger = logging.getLogger(__name__)

ITEMS_MIN: Final = 50
"""How many items a source's operation holds until there proves to be more: one item is a leased,
due or retired task.
"""
IDLE_S: Final = 0.02
"""How long a source that had nothing to do is not asked again for a batch that is made anyway: a
lone caller's batch would wait for all sources. ``due`` still asks whether a source has become due.
"""
PASSED_OVER_S: Final = 60.0
PASSED_OVER_MAX_S: Final = 3_600.0
"""How long a faulty item is passed over: twice as long each time, up to the maximum."""
PASSED_OVER_MAX: Final = 100
"""If so many items of a kind cannot be decided, the whole kind waits."""


class Source(Protocol):
    """Work of one kind."""

    @property
    def kind(self) -> str:
        """Its name in metrics and in the log."""

    @property
    def pause_s(self) -> float:
        """How many seconds it may wait for a batch made anyway, before it causes one itself."""

    def first(self, passed_over: Collection[int]) -> int | None:
        """Return the number of the item to do first; None if there is none.

        Cheap: it is called for every batch while the source has work, and some fifty times a
        second.
        """

    def quiet_s(self) -> float:
        """Return for how long ``first`` finds nothing unless the state changes; 0 if unknown."""

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:
        """Return an operation on up to ``items_max`` items, once ``first`` has found something."""


@dataclass(slots=True)
class _Failure:
    """An item that could not be decided."""

    until_s: float
    """Until then the item is passed over."""
    pause_s: float
    tried_again: bool = False


@dataclass(slots=True)
class _Turn:
    """A source and its recent results."""

    source: Source
    items_max: int = ITEMS_MIN
    asked: int = 0
    """How many items the last operation could hold."""
    first: int = 0
    """The number of the first item of the last operation."""
    suspect: bool = False
    """A batch with one of its operations could not be decided: its next ones go alone."""
    look_at_s: float = 0.0
    """Until then the source causes no batch."""
    idle_until_s: float = 0.0
    """Until then the source probably has nothing to do."""
    waits_until_s: float = 0.0
    """Until then the source does nothing at all."""
    failures: dict[int, _Failure] = field(default_factory=dict)

    def passed_over(self, now_s: float) -> frozenset[int]:
        """Return the items to pass over. An item whose pause is over is tried again, alone."""
        if not self.failures:
            return _NOTHING
        for failure in self.failures.values():
            if failure.until_s <= now_s and not failure.tried_again:
                failure.tried_again = True
                self.suspect = True
                self.items_max = 1
        return frozenset(
            number for number, failure in self.failures.items() if not failure.tried_again
        )


_NOTHING: Final[frozenset[int]] = frozenset()


class Housekeeping:
    """Provides the leader's own operations, and handles their results."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        now_s: Callable[[], float],
        done: Callable[[str, int], None] = lambda _kind, _items: None,
        failed: Callable[[str], None] = lambda _kind: None,
    ) -> None:
        """``done`` receives how much of a kind was done, ``failed`` a kind that has a fault."""
        self._sources = sources
        self._now_s = now_s
        self._done = done
        self._failed = failed
        self._turns: list[_Turn] = []
        """In the order in which they are asked."""
        self._by_type: dict[type[Operation], _Turn] = {}
        """The source that last provided operations of a type."""

    def begin(self) -> None:
        """Start: this node leads."""
        self._turns = [_Turn(source) for source in self._sources]
        self._by_type.clear()

    def end(self) -> None:
        """Stop: this node no longer leads."""
        self._turns = []

    def due(self) -> bool:
        """Whether some work is due that justifies a batch."""
        now_s = self._now_s()
        for turn in self._turns:
            if now_s < turn.look_at_s:
                continue
            if self._first(turn, now_s) is not None:
                return True
            turn.look_at_s = now_s + turn.source.pause_s
        return False

    def quiet_s(self) -> float:
        """Return for how long ``due`` will find nothing unless the state changes; 0 if unknown."""
        now_s = self._now_s()
        return min(
            (max(turn.source.quiet_s(), turn.look_at_s - now_s) for turn in self._turns),
            default=0.0,
        )

    def operations(
        self, items_max: int, waiting: Collection[type[Operation]] = ()
    ) -> Iterator[Operation]:
        """Yield what is due now: a slice of each kind, together up to about ``items_max`` tasks.

        If ``alone`` holds after the first, the batch must hold nothing else. ``waiting`` are types
        of operations that were provided before and are still to be decided.
        """
        now_s = self._now_s()
        busy = [self._by_type.get(each) for each in waiting]
        found = [
            turn
            for turn in self._turns
            if turn not in busy
            and now_s >= turn.idle_until_s
            and self._first(turn, now_s) is not None
        ]
        found.sort(key=lambda turn: not turn.suspect)
        for turn in found:
            turn.asked = max(1, min(turn.items_max, items_max // len(found)))
            operation = turn.source.operation(turn.asked, turn.passed_over(now_s))
            self._by_type[type(operation)] = turn
            # A source that was asked goes to the end: what finds no room now comes first next time.
            self._turns.remove(turn)
            self._turns.append(turn)
            yield operation

    def alone(self, operation: Operation) -> bool:
        """Whether an operation must not share a batch: one of its kind could not be decided."""
        turn = self._by_type.get(type(operation))
        return turn is not None and turn.suspect

    def decided(self, operation: Operation, outcome: Outcome) -> bool:
        """Handle an operation that is decided and applied; return whether more is due now."""
        turn = self._by_type.get(type(operation))
        if turn is None:
            return False
        items, more = (outcome.items, outcome.more) if isinstance(outcome, Done) else (1, False)
        self._done(turn.source.kind, items)
        if turn.failures:
            turn.failures.pop(turn.first, None)
        turn.suspect = turn.suspect and more and turn.items_max < ITEMS_MIN
        turn.items_max = min(2 * turn.items_max, _ITEMS_MAX) if more else ITEMS_MIN
        if not more:
            turn.look_at_s = self._now_s() + turn.source.pause_s
        return more

    def failed(self, operation: Operation, error: Exception, *, alone: bool) -> None:
        """Handle a batch with this operation that cannot be decided; ``alone``: it is at fault."""
        turn = self._by_type.get(type(operation))
        if turn is None:
            return
        turn.suspect = True
        if not alone:
            return
        if turn.asked > 1:
            turn.items_max = 1
            return
        now_s = self._now_s()
        kind, number = turn.source.kind, turn.first
        before = turn.failures.pop(number, None)
        pause_s = PASSED_OVER_S
        if before is not None:
            pause_s = min(2 * before.pause_s, PASSED_OVER_MAX_S)
        self._failed(kind)
        _logger.error(
            "own operation cannot be decided",
            exc_info=error if before is None else None,
            extra={"kind": kind, "number": number, "again_in_s": pause_s},
        )
        if len(turn.failures) >= PASSED_OVER_MAX:
            turn.failures.clear()
            turn.waits_until_s = now_s + PASSED_OVER_MAX_S
            _logger.critical(
                "own operations cannot be decided",
                extra={"kind": kind, "again_in_s": PASSED_OVER_MAX_S},
            )
            return
        turn.failures[number] = _Failure(now_s + pause_s, pause_s)

    def _first(self, turn: _Turn, now_s: float) -> int | None:
        if now_s < turn.waits_until_s:
            return None
        first = turn.source.first(turn.passed_over(now_s))
        if first is None:
            # The faulty item is gone, or passed over.
            turn.suspect = False
            turn.items_max = ITEMS_MIN
            turn.idle_until_s = now_s + IDLE_S
        else:
            turn.first = first
            turn.idle_until_s = 0.0
        return first


_ITEMS_MAX: Final = 1 << 16
"""Beyond any batch: the committer bounds what a batch holds."""
