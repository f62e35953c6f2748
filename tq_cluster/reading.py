"""Reads take turns on the event loop, however many of them there are and however much each reads.

What a turn of the loop gives to all of them together is bounded. One that comes while there is room
is begun at once; the others go on one step each, in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from tq_cluster.core.reading import STEP_COST, Reader, Steps
from tq_cluster.core.view import View

TURN_COST: Final = STEP_COST
"""What all reads together may read in one turn of the loop; the last step may go beyond it."""

Answer = TypeVar("Answer")
OpenView = Callable[[], AbstractContextManager[View]]
"""Opens the state for one step."""


class _Read:
    """A read that waits for its next step."""

    __slots__ = ("answered", "open_view", "reader", "steps")

    def __init__(
        self, steps: Steps[Any], reader: Reader, open_view: OpenView, answered: asyncio.Future[Any]
    ) -> None:
        self.steps = steps
        self.reader = reader
        self.open_view = open_view
        self.answered = answered


class Reading:
    """All reads of one node."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Read] = deque()
        self._left = TURN_COST
        self._turn_is_due = False

    async def answer(self, query: Callable[[Reader], Steps[Answer]], open_view: OpenView) -> Answer:
        """Answer a read, each of its steps from the state that ``open_view`` shows by then."""
        reader = Reader()
        answered: asyncio.Future[Answer] = self._loop.create_future()
        read = _Read(query(reader), reader, open_view, answered)
        if self._waiting or self._left <= 0 or not self._ended(read):
            self._waiting.append(read)
            self._await_turn()
        return await answered

    def _turn(self) -> None:
        self._turn_is_due = False
        self._left = TURN_COST
        while self._waiting and self._left > 0:
            read = self._waiting.popleft()
            if read.answered.done():  # its caller has gone
                read.steps.close()
            elif not self._ended(read):
                self._waiting.append(read)
        if self._waiting:
            self._await_turn()

    def _ended(self, read: _Read) -> bool:
        """Have a read make a step; whether it was the last."""
        try:
            with read.open_view() as view:
                read.reader.renew(view)
                next(read.steps)
        except StopIteration as end:
            read.answered.set_result(end.value)
            # What was read is now put into bytes and sent: one large answer a turn.
            self._spend(read.reader.cost)
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
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)
