"""Doing something to each of many things without holding the event loop.

When a reign ends thousands wait, and each that is woken runs in the next turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, TypeVar

Thing = TypeVar("Thing")

TURN: Final = 200
"""How many are seen to in one turn."""


def in_turns(things: Iterable[Thing], see_to: Callable[[Thing], object], most: int = TURN) -> None:
    """See to the first of ``things`` now, and to the others ``most`` a turn of the loop."""
    left = iter(things)

    def go_on() -> None:
        some = list(islice(left, most))
        for thing in some:
            see_to(thing)
        if len(some) == most:
            asyncio.get_running_loop().call_soon(go_on)

    go_on()


def let_go(things: dict[Any, Any], most: int = 10 * TURN) -> None:
    """Drop what ``things`` holds, which nobody needs any more: to free a million takes a while."""

    def go_on() -> None:
        for _ in range(min(most, len(things))):
            things.popitem()
        if things:
            asyncio.get_running_loop().call_soon(go_on)

    go_on()
