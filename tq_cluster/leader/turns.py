"""Process many items without holding the event loop.

When a leadership ends thousands of calls wait, and each one that is woken runs in the next turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

Thing = TypeVar("Thing")

TURN: Final = 200
"""How many items are processed in one turn."""


def in_turns(
    things: Iterable[Thing],
    see_to: Callable[[Thing], object],
    most: int = TURN,
    weigh: Callable[[Thing], int] = lambda _: 1,
) -> None:
    """Process the first of ``things`` now, and the others in later turns, ``most`` in each.

    An item counts as ``weigh`` says, and at least as one.
    """
    _see_to(iter(things), see_to, most, weigh)


def let_go(things: dict[Any, Any], most: int = 10 * TURN) -> None:
    """Empty ``things``, a part in each turn: to free a million entries takes a while."""
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
