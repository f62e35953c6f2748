"""Doing something to each of many things without holding the event loop.

When a leadership ends thousands wait, and each that is woken runs in the next turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

Thing = TypeVar("Thing")

TURN: Final = 200
"""How many are seen to in one turn."""


def in_turns(
    things: Iterable[Thing],
    see_to: Callable[[Thing], object],
    most: int = TURN,
    weigh: Callable[[Thing], int] = lambda _: 1,
) -> None:
    """See to the first of ``things`` now, and to the others ``most`` a turn of the loop.

    One that ``weigh`` finds heavier counts for more.
    """
    _see_to(iter(things), see_to, most, weigh)


def let_go(things: dict[Any, Any], most: int = 10 * TURN) -> None:
    """Drop what ``things`` holds, which nobody needs any more: to free a million takes a while."""
    for _ in range(min(most, len(things))):
        things.popitem()
    if things:
        asyncio.get_running_loop().call_soon(let_go, things, most)


def _see_to(
    left: Iterator[Thing],
    see_to: Callable[[Thing], object],
    most: int,
    weigh: Callable[[Thing], int],
) -> None:
    room = most
    for thing in left:
        see_to(thing)
        room -= max(1, weigh(thing))
        if room <= 0:
            asyncio.get_running_loop().call_soon(_see_to, left, see_to, most, weigh)
            return
