"""Reads take turns on the event loop, however many there are and however much each reads.

The work of all reads together in one turn of the loop is bounded. A read that comes while there is
room begins at once; the others continue with one step each, in order of arrival.

Between its steps a read holds what it has read. So only a few continue; if all places are taken, a
read that its first step does not answer waits until another has ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

from tq_cluster.core.reads.steps import STEP_COST, Reader, Steps
from tq_cluster.core.rows.view import View
from tq_cluster.slices import slices

TURN_COST: Final = STEP_COST
"""The cost of all reads together in one turn of the loop; the last step may exceed it."""
ANSWER_COST: Final = 20
"""The cost of sending the smallest answer, in rows read."""

UNDER_WAY_MAX: Final = 4
"""How many reads continue at once: with the largest tasks they hold 20 MiB each."""
BEGUN_MAX: Final = 128
"""How many reads wait with what their first step has read, 400 KiB each; one more starts over."""

Answer = TypeVar("Answer")
OpenView = Callable[[], AbstractContextManager[View]]
"""Opens the state for one step."""


class _Nothing:
    """A state without a row."""

    def get(self, table: int, key: bytes) -> bytes | None:
        raise NotImplementedError

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError


_NOTHING: Final = _Nothing()


class _Read:
    """A read that waits for its next step."""

    __slots__ = ("_query", "answered", "open_view", "reader", "steps", "under_way")

    def __init__(
        self,
        query: Callable[[Reader], Steps[Any]],
        open_view: OpenView,
        answered: asyncio.Future[Any],
    ) -> None:
        self._query = query
        self.open_view = open_view
        self.answered = answered
        self.under_way = False
        """Whether the read may hold a part of its answer."""
        self.begin()

    def begin(self) -> None:
        """Begin, with nothing read so far."""
        self.reader = Reader()
        self.steps = self._query(self.reader)


class Reading:
    """All reads of one node."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slices = slices()
        self._waiting: deque[_Read] = deque()
        self._large: deque[_Read] = deque()
        """Reads whose first step did not answer them."""
        self._under_way = 0
        self._left = TURN_COST
        self._turn_is_due = False

    async def answer(self, query: Callable[[Reader], Steps[Answer]], open_view: OpenView) -> Answer:
        """Answer a read; each step reads the state that ``open_view`` returns at that time."""
        answered: asyncio.Future[Answer] = self._loop.create_future()
        read = _Read(query, open_view, answered)
        if self._waiting or self._left <= 0:
            self._waiting.append(read)
            self._await_turn()
        elif not self._ended(read):
            self._go_on(read)
        return await answered

    async def room(self, cost: int) -> None:
        """Return in a turn of the loop that has room for a read of this cost."""

        def nothing(view: Reader) -> Steps[None]:
            view.spend(cost)
            yield from ()

        await self.answer(nothing, lambda: nullcontext(_NOTHING))

    def _turn(self) -> None:
        self._turn_is_due = False
        self._left = TURN_COST
        while self._waiting and self._left > 0:
            read = self._waiting.popleft()
            if read.answered.done():  # its caller has gone
                read.steps.close()
            elif not self._ended(read):
                self._go_on(read)
                continue
            if read.under_way:
                self._under_way -= 1
                self._begin_next()
        if self._waiting:
            self._await_turn()

    def _go_on(self, read: _Read) -> None:
        """Queue a read for more steps, or until a place is free."""
        if not read.under_way and self._under_way == UNDER_WAY_MAX:
            if len(self._large) >= BEGUN_MAX:
                read.begin()
            self._large.append(read)
            return
        self._under_way += not read.under_way
        read.under_way = True
        self._waiting.append(read)
        self._await_turn()

    def _begin_next(self) -> None:
        while self._large:
            read = self._large.popleft()
            if not read.answered.done():
                self._go_on(read)
                return

    def _ended(self, read: _Read) -> bool:
        """Run one step of a read; return whether it was the last."""
        try:
            with read.open_view() as view:
                read.reader.renew(view)
                next(read.steps)
        except StopIteration as end:
            read.answered.set_result(end.value)
            # The result is encoded and sent next: one large answer a turn, or a few small ones.
            self._spend(read.reader.cost + ANSWER_COST)
        except Exception as error:  # noqa: BLE001  # it is the caller's, who waits for it
            read.answered.set_exception(error)
        else:
            return False
        finally:
            self._spend(read.reader.step_cost)
        return True

    def _spend(self, cost: int) -> None:
        self._left -= max(1, cost)
        self._await_turn()

    def _await_turn(self) -> None:
        if self._turn_is_due:
            return
        self._turn_is_due = True
        if self._waiting:
            self._slices.later(self._turn)
        else:
            self._loop.call_soon(self._make_room)

    def _make_room(self) -> None:
        self._turn_is_due = False
        self._left = TURN_COST
        if self._waiting:
            self._await_turn()
