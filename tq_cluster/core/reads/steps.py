"""Reads in steps, each of a bounded part of the state.

A list may read thousands of rows and a task may have megabytes, while other calls wait for the
event loop. So a read is a generator: once it has read enough for one step it yields, and continues
with the state at that time. Its answer is therefore not of one instant, but each task in it is, and
none is older than the read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Final, TypeVar

from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

STEP_COST: Final = 400
"""The cost of one step: a few milliseconds."""
READ_COST_MAX: Final = 16_000
"""The most cost of one page. The page ends there, and the next one begins there."""
COST_BYTES: Final = 1_024
"""The bytes of a value that cost as much as a row itself."""

Answer = TypeVar("Answer")
Steps = Generator[None, None, Answer]
"""A read in progress."""


class Reader:
    """A view that counts its reads, and gets the present state for each step."""

    _view: View

    def __init__(self) -> None:
        """Create it without a state: call ``renew`` before every step, also the first."""
        self.holds: Callable[[int], None] | None = None
        """Called with the bytes of payload and result in the answer, before they are read. It
        raises its own error if they are too many, and the read ends with that error.
        """
        self._step_cost = 0
        self._earlier_cost = 0

    @property
    def cost(self) -> int:
        """The cost so far: rows, lookups, and bytes in rows."""
        return self._earlier_cost + self._step_cost

    @property
    def step_cost(self) -> int:
        """The cost of this step."""
        return self._step_cost

    @property
    def step_is_over(self) -> bool:
        """Whether this step has read enough: yield before reading on."""
        return self._step_cost >= STEP_COST

    @property
    def is_spent(self) -> bool:
        """Whether one page has read enough."""
        return self.cost >= READ_COST_MAX

    def renew(self, view: View) -> None:
        """Begin a step with the present state."""
        self._view = view
        self._earlier_cost += self._step_cost
        self._step_cost = 0

    def expect(self, size: int) -> None:
        """Announce that the answer has at most ``size`` bytes of payload and result."""
        if size and self.holds is not None:
            self.holds(size)

    def spend(self, cost: int) -> None:
        """Add the cost of reads made elsewhere."""
        self._step_cost += cost

    def get(self, table: int, key: bytes) -> bytes | None:
        value = self._view.get(table, key)
        self._step_cost += 1 if value is None else 1 + len(value) // COST_BYTES
        return value

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Scan as ``View.scan`` does; end the iteration before the step ends."""
        self._step_cost += 1
        for row in self._view.scan(table, start, stop, limit=limit, reverse=reverse):
            self._step_cost += 1 + len(row[1]) // COST_BYTES
            yield row


def in_one_go(
    scope: Scope[View], query: Callable[..., Steps[Answer]], *arguments: object, **options: object
) -> Answer:
    """Answer a read from one view, without pauses; only if no call waits for the event loop."""
    reader = Reader()
    steps = query(Scope(reader, scope.prefix), *arguments, **options)
    while True:
        reader.renew(scope.view)
        try:
            next(steps)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
