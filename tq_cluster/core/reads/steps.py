"""Reads in steps, each of a bounded part of the state.

A list may have to look at thousands of rows and a task may have megabytes, while others wait for
the event loop. So a read is a generator: wherever it has read enough for one step it yields, and
goes on with the state as it is by then. What it answers is therefore not of one instant, but each
task in it is, and none is older than the read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Final, TypeVar

from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

STEP_COST: Final = 400
"""What one step reads: a few milliseconds."""
READ_COST_MAX: Final = 16_000
"""What one page reads. It is as short as that makes it, and the next one goes on from there."""
COST_BYTES: Final = 1_024
"""Of what a row holds: so much costs as much as the row itself."""

Answer = TypeVar("Answer")
Steps = Generator[None, None, Answer]
"""A read under way."""


class Reader:
    """A view whose reads are counted, and whose state is renewed from step to step."""

    _view: View

    def __init__(self) -> None:
        """Without a state yet: ``renew`` comes before every step, the first one, too."""
        self.holds: Callable[[int], None] | None = None
        """Told how many bytes of payload and result the answer will have, before they are read. It
        raises an error of its own where that is too much; the read then ends with it.
        """
        self._step_cost = 0
        self._earlier_cost = 0

    @property
    def cost(self) -> int:
        """What was read so far: rows, looks for rows, and what rows hold."""
        return self._earlier_cost + self._step_cost

    @property
    def step_cost(self) -> int:
        """What this step has read."""
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
        """Begin a step, with the state as it is now."""
        self._view = view
        self._earlier_cost += self._step_cost
        self._step_cost = 0

    def expect(self, size: int) -> None:
        """Say that the answer will have ``size`` bytes of payload and result, at most."""
        if size and self.holds is not None:
            self.holds(size)

    def spend(self, cost: int) -> None:
        """Count what was looked at elsewhere."""
        self._step_cost += cost

    def get(self, table: int, key: bytes) -> bytes | None:
        value = self._view.get(table, key)
        self._step_cost += 1 if value is None else 1 + len(value) // COST_BYTES
        return value

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """As ``View.scan``; to be ended before the step is."""
        self._step_cost += 1
        for row in self._view.scan(table, start, stop, limit=limit, reverse=reverse):
            self._step_cost += 1 + len(row[1]) // COST_BYTES
            yield row


def in_one_go(
    scope: Scope[View], query: Callable[..., Steps[Answer]], *arguments: object, **options: object
) -> Answer:
    """Answer a read from one view, however long it takes: where no call waits for the loop."""
    reader = Reader()
    steps = query(Scope(reader, scope.prefix), *arguments, **options)
    while True:
        reader.renew(scope.view)
        try:
            next(steps)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
