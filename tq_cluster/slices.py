"""Long work on the event loop: in slices, with turns of the loop for short work in between.

The delivery of a call is short work that needs many turns of the loop: gRPC takes about six for
each, and delivers the calls of one method one after the other. If several kinds of long work had a
slice of a few milliseconds in every turn, a node would take only some twenty calls of a method a
second, also of small ones. So the slices of all long work of a node take turns, and after each the
loop turns a few times without any.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

Result = TypeVar("Result")

TURN_S: Final = 0.002
"""Slices share a turn of the loop until they have taken this long."""
REST_S: Final = 0.0006
"""After slices the loop turns once without any for each such part of the time they took."""
REST_TURNS_MAX: Final = 8
FIRST_IN_A_ROW: Final = 4
"""How many turns urgent slices have before it is the others' turn."""


class Slice:
    """A slice that has not begun."""

    __slots__ = ("_go_on",)

    def __init__(self, go_on: Callable[[], None]) -> None:
        self._go_on: Callable[[], None] | None = go_on

    def cancel(self) -> None:
        """Do not run it."""
        self._go_on = None

    def run(self) -> None:
        """Run it, unless it was cancelled."""
        if self._go_on is not None:
            self._go_on()


class _Passage(Generic[Result]):
    """Steps that go on as slices until they end.

    It leaves no circle, as a function that hands itself on would: the result, perhaps a request of
    many megabytes, would be kept until the garbage collector comes.
    """

    __slots__ = ("_ended", "_slices", "_steps")

    def __init__(
        self, slices: Slices, steps: Generator[None, None, Result], ended: asyncio.Future[Result]
    ) -> None:
        self._slices = slices
        self._steps = steps
        self._ended = ended

    def go_on(self) -> None:
        """Take the next step."""
        if self._ended.done():  # who waited for it has gone
            self._steps.close()
            return
        try:
            next(self._steps)
        except StopIteration as end:
            self._ended.set_result(end.value)
        except Exception as error:  # noqa: BLE001  # it is the caller's, who waits for it
            self._ended.set_exception(error)
            # The error has this frame and those below in its traceback, and they have this object.
            del self._ended, self._steps
        else:
            self._slices.later(self.go_on)


class Slices:
    """The slices of one event loop."""

    # It refers to no loop, so that `slices` does not keep loops that are closed.
    def __init__(self) -> None:
        self._urgent: deque[Slice] = deque()
        self._others: deque[Slice] = deque()
        self._urgent_in_a_row = 0
        self._rest = 0
        """How many more turns of the loop go without a slice."""
        self._turn_is_due = False

    def later(self, go_on: Callable[[], None], *, urgent: bool = False) -> Slice:
        """Run ``go_on`` as a slice, of a few milliseconds at most, once its turn comes.

        Callers wait for ``urgent`` work as a whole: it has most of the turns.
        """
        slice_ = Slice(go_on)
        (self._urgent if urgent else self._others).append(slice_)
        self._await_turn()
        return slice_

    def took(self, seconds: float) -> None:
        """Let a slice that ran in no turn of its own count like the others."""
        self._rest = max(self._rest, min(REST_TURNS_MAX, int(seconds / REST_S)))

    async def through(self, steps: Generator[None, None, Result]) -> Result:
        """Return what ``steps`` return: the first step runs now, the others are slices."""
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.later(_Passage(self, steps, ended).go_on)
        try:
            return await ended
        finally:
            del ended, steps  # an error has this frame in its traceback

    def _await_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_is_due = False
        try:
            if self._rest:
                self._rest -= 1
            else:
                self._run_some()
        finally:
            if self._urgent or self._others:
                self._await_turn()

    def _run_some(self) -> None:
        slices = self._next()
        time_s = asyncio.get_running_loop().time
        began_s = time_s()
        try:
            # Those that come meanwhile have to wait for another turn.
            for _ in range(len(slices)):
                slices.popleft().run()
                if time_s() >= began_s + TURN_S:
                    break
        finally:
            self.took(time_s() - began_s)

    def _next(self) -> deque[Slice]:
        """Return the slices whose turn it is."""
        if self._urgent and (not self._others or self._urgent_in_a_row < FIRST_IN_A_ROW):
            self._urgent_in_a_row += 1
            return self._urgent
        self._urgent_in_a_row = 0
        return self._others


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Slices] = WeakKeyDictionary()


def slices() -> Slices:
    """Return the slices of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = Slices()
    return found
