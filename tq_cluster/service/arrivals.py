"""Large messages that arrive together, and the turns of the loop in which they are taken over.

gRPC copies a message into Python's memory when the task that reads it goes on: 12 MiB take about
10 ms. Tasks whose messages are complete at the same time would go on in the same turn, and hold the
loop for the sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

LARGE_BYTES: Final = 64 << 10
"""Smaller messages do not count: copying one is a small part of what its call costs."""
TURN_BYTES: Final = 1 << 20
"""Once messages of this size in total were copied in a turn, the others wait for the next one."""

Message = TypeVar("Message")


class _Arrivals:
    """The large messages that were copied in this turn of the loop."""

    # It refers to no loop, so that `read_spread` does not keep loops that are closed.
    def __init__(self) -> None:
        self._copied_bytes = 0

    @property
    def turn_is_full(self) -> bool:
        return self._copied_bytes >= TURN_BYTES

    def copied(self, size: int) -> None:
        if not self._copied_bytes:
            # It runs before all that this turn puts off to the next.
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._copied_bytes += size

    def _begin_turn(self) -> None:
        self._copied_bytes = 0


class _Reading(Awaitable[Message]):
    """A read that goes on in a turn that has room, once gRPC has the message."""

    __slots__ = ("_arrivals", "_read")

    def __init__(self, read: Callable[[], Awaitable[Message]], arrivals: _Arrivals) -> None:
        self._read = read
        self._arrivals = arrivals

    def __await__(self) -> Generator[Any, None, Message]:
        reading = self._read().__await__()
        try:
            waits_for = next(reading)
            while True:
                try:
                    yield waits_for
                    while self._arrivals.turn_is_full:
                        yield None  # until the next turn
                except BaseException as error:  # noqa: BLE001  # the read decides
                    waits_for = reading.throw(error)
                else:
                    waits_for = next(reading)
        except StopIteration as end:
            message: Message = end.value
            if isinstance(message, bytes) and len(message) >= LARGE_BYTES:
                self._arrivals.copied(len(message))
            return message


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Arrivals] = WeakKeyDictionary()


def read_spread(read: Callable[[], Awaitable[Message]]) -> Awaitable[Message]:
    """Read a message with ``read``; large ones that arrive together take a turn each."""
    loop = asyncio.get_running_loop()
    arrivals = _of_loops.get(loop)
    if arrivals is None:
        arrivals = _of_loops[loop] = _Arrivals()
    return _Reading(read, arrivals)
