"""How many calls are under way to the leader at once; the others wait or are dropped.

A leader that is short of CPU takes calls more slowly than they come. gRPC delivers them in the
order in which they arrived, so such a leader soon works on calls whose callers have given up and
answers none in time, for as long as the callers repeat them. A node that forwards sees that first:
its calls wait long before the leader begins on them. It then sends fewer at a time, lets the others
wait here, and drops those that can no longer be answered in time.

The size rises by a constant and is halved, like the window of TCP (Jacobson and Karels, "Congestion
Avoidance and Control", 1988). The signal is a call's wait before the leader began on it, in place
of a lost packet. A slow disk of the leader is no reason to send less, because its writes are
committed together.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

from tq_cluster.errors import TqError

SLOW_S = 0.2
"""If a call waited longer than this before the leader began on it, too many are under way."""
LEAST = 8
"""The smallest size: without any calls under way there would be no news of the leader."""
GAIN = 4.0
"""How much the size grows while a full window of calls is answered without waiting."""
SMOOTHING = 0.125
"""The weight of the latest call in the average duration of calls (RFC 6298, alpha)."""


class ShedError(TqError):
    """The call was not sent, since its answer would not have come in time."""


@dataclass(slots=True, eq=False)
class _Waiting:
    answer_by_s: float
    turn: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Window:
    """Calls under way to one leader. Unbounded until one of them has waited long."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._narrowed_s = -math.inf
        self._took_s = 0.0
        self.size = math.inf
        """How many calls may be under way."""
        self.under_way = 0
        """How many calls are under way."""

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    async def enter(self, answer_by_s: float) -> None:
        """Wait for a place, which ``leave`` gives back.

        Raises ShedError once an answer by ``answer_by_s`` is no longer possible, and the error
        given to ``reopen`` if that ended the waiting.
        """
        if self.under_way < self.size and not self._waiting:
            self.under_way += 1
            return
        mine = _Waiting(answer_by_s)
        self._waiting.append(mine)
        try:
            async with asyncio.timeout_at(answer_by_s):
                await mine.turn
        except BaseException as error:
            turn = mine.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # Granted at the very moment of the timeout or of the cancellation.
                self._give_back()
            if isinstance(error, TimeoutError):
                raise _shed() from None
            raise

    def leave(self, sent_s: float, waited_s: float | None) -> None:
        """Give a place back.

        ``waited_s`` is the time until the leader began on the call, which was sent at ``sent_s``;
        None if it is not known.
        """
        now_s = self._loop.time()
        if waited_s is not None:
            self._took_s += SMOOTHING * (now_s - sent_s - self._took_s)
            if waited_s <= SLOW_S:
                self.size += GAIN / self.size
            elif sent_s >= self._narrowed_s:
                self.size = max(LEAST, min(self.size, self.under_way) / 2)
                self._narrowed_s = now_s
        self._give_back()

    def reopen(self, why: Exception) -> None:
        """Reset the window for another leader; calls that wait end with ``why``."""
        self.size = math.inf
        self._took_s = 0.0
        self._narrowed_s = self._loop.time()
        for each in self._waiting:
            if not each.turn.done():
                each.turn.set_exception(why)
        self._waiting.clear()

    def _give_back(self) -> None:
        self.under_way -= 1
        while self._waiting and self.under_way < self.size:
            next_ = self._waiting.popleft()
            if next_.turn.done():
                continue
            if self._loop.time() + self._took_s > next_.answer_by_s:
                next_.turn.set_exception(_shed())
                continue
            self.under_way += 1
            next_.turn.set_result(None)


def _shed() -> ShedError:
    return ShedError("the leader is overloaded; retry later")
