"""Some things are done a few in each turn of the loop, however many are ready at once.

One entry may answer hundreds of callers, and so may one confirmation of leadership, or the common
end of long polls that began together; one message of a conversation begins many calls. Doing them
all in one go would hold the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque


class TurnLimit:
    """Lets so many callers go in each turn of the loop, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._left = most
        self._turn_is_due = False

    async def turn(self) -> None:
        """Return at once if this turn has room for one more, else in one that has."""
        if self._left > 0 and not self._waiting:
            self._left -= 1
            self._await_turn()
            return
        may_go: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(may_go)
        self._await_turn()
        await may_go

    def _turn(self) -> None:
        self._turn_is_due = False
        self._left = self._most
        while self._waiting and self._left > 0:
            may_go = self._waiting.popleft()
            if not may_go.done():  # else its caller has gone
                may_go.set_result(None)
                self._left -= 1
        if self._left < self._most:
            self._await_turn()

    def _await_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)
