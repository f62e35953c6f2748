"""The operations that wait for an entry: large and small ones by turns.

A hundred purges are a hundred entries, or five seconds, and in a single line every later operation
would wait as long. So an operation that is a good part of an entry by itself waits in a separate
line: each batch takes at least one of those, and as many small ones as it would without.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, takewhile

from tq_cluster.core.model.operations import Claim, Operation, Outcome, Weight

BATCH_ITEMS_MAX = 1_000
BATCH_BYTES_MAX = 1 << 20
"""How many items and how much payload one batch gathers; a single larger operation goes alone."""
LARGE_ITEMS = 250
LARGE_BYTES = 256 << 10
"""An operation above one of these limits is large."""


@dataclass(slots=True)
class Waiting:
    """An operation and the future of its outcome."""

    operation: Operation
    outcome: asyncio.Future[Outcome]
    items: int
    payload_bytes: int
    own: bool = False
    """The leader's own: it has no caller, and it is found again if it is dropped."""
    first: bool = False
    """An entry was full before its turn came: it is decided before any that was not put off."""
    met: bool = False
    """It waited for tasks, and others of its batch made some ready."""
    gives_back: bool = False
    """It releases what a claim was granted: it is decided before a repetition of the claim."""

    @property
    def large(self) -> bool:
        """Whether it is a good part of an entry by itself."""
        return self.items > LARGE_ITEMS or self.payload_bytes > LARGE_BYTES


class Line:
    """The waiting operations, in the order in which they are taken."""

    def __init__(self) -> None:
        self._small: deque[Waiting] = deque()
        """Operations that go first stand before the others, large ones too."""
        self._large: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def __iter__(self) -> Iterator[Waiting]:
        return chain(self._small, self._large)

    def add(self, each: Waiting) -> None:
        """Add an operation behind the others."""
        (self._large if each.large else self._small).append(each)

    def put_back(self, those: Iterable[Waiting]) -> None:
        """Put operations before all others, in their order, but after releases of granted tasks."""
        given_back: list[Waiting] = []
        while self._small and self._small[0].gives_back:
            given_back.append(self._small.popleft())
        self._small.extendleft(reversed([*given_back, *those]))

    def own(self) -> Iterator[Waiting]:
        """Yield the leader's own operations, which stand among those that go first."""
        firsts = takewhile(lambda each: each.first, self._small)
        return (each for each in firsts if each.own)

    def clear(self) -> None:
        """Drop everything."""
        self._small.clear()
        self._large.clear()

    def take_next(self) -> list[Waiting]:
        """Take one operation; return none if nothing waits."""
        for lane in (self._small, self._large):
            while lane:
                each = lane.popleft()
                if not each.outcome.done():  # else its caller has given up
                    return [each]
        return []

    def take_first(self, batch: list[Waiting]) -> None:
        """Add the operations that go before all others."""
        self._take(self._small, batch, set(), only_first=True)

    def take(self, batch: list[Waiting]) -> None:
        """Add what one entry may hold beside what the batch has: some large ones, some small."""
        names = named(batch)
        for lane in (self._small, self._large):
            self._take(lane, batch, names)

    def _take(
        self,
        lane: deque[Waiting],
        batch: list[Waiting],
        names: set[tuple[int, str]],
        *,
        only_first: bool = False,
    ) -> None:
        # Large and small ones are counted apart: put-off operations share one lane, and a large one
        # must not wait until no small one was put off.
        items, payload_bytes = [0, 0], [0, 0]
        for each in batch:
            items[each.large] += each.items
            payload_bytes[each.large] += each.payload_bytes
        repetitions: list[Waiting] = []
        while lane and len(repetitions) < BATCH_ITEMS_MAX:
            each = lane[0]
            if each.outcome.done():  # its caller has given up
                lane.popleft()
                continue
            if only_first and not each.first:
                break
            if (name := name_of(each.operation)) is not None:
                if name in names:
                    # A claim and its repetition: the tasks granted to the first may have to be
                    # released before the second is answered with them. Other operations do not wait
                    # for that.
                    repetitions.append(lane.popleft())
                    continue
                names.add(name)
            alike = items[each.large] > 0
            items[each.large] += each.items
            payload_bytes[each.large] += each.payload_bytes
            if alike and (
                items[each.large] > BATCH_ITEMS_MAX or payload_bytes[each.large] > BATCH_BYTES_MAX
            ):
                break
            batch.append(lane.popleft())
        lane.extendleft(reversed(repetitions))


def named(batch: Iterable[Waiting]) -> set[tuple[int, str]]:
    """Return the request ids of the claims in a batch, each with its namespace."""
    names = (name_of(each.operation) for each in batch)
    return {name for name in names if name is not None}


def name_of(operation: Operation) -> tuple[int, str] | None:
    """Return the request id of a claim, with its namespace; None for other operations."""
    if not isinstance(operation, Claim) or not operation.request.request_id:
        return None
    return operation.caller.namespace, operation.request.request_id


def weigh(operation: Operation) -> Weight:
    """Return what an operation may take of a batch at most."""
    return operation.weight()
