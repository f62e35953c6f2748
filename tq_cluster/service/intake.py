"""Which requests are read off the network, and when: each may have the maximum size.

The size of a request shows only once it is read, and gRPC then takes in all of it. So only a few
are read at a time, and the others stay with their callers, except for the 64 KiB that a connection
may send ahead. A small request is read in an instant. One that comes slowly makes way for others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from tq_cluster.service.arrivals import read_spread
from tq_cluster.service.shares import Shared

READS_MAX = 8
"""With 12 MiB each they are 96 MiB at most. An address alone has five of the places.
"""
READ_S = 30.0
"""A request has to be complete after this time."""
YIELDS_AFTER_S = 2.0
"""A request that is not complete after this time makes way for others that wait."""
YIELDS_EARLY_S = 0.25
"""The same for a caller that reads more requests at a time than the waiting caller would."""
LOOK_S = 0.05


class SlowRequestError(Exception):
    """The request did not come in time."""


@dataclass(slots=True, eq=False)
class _Place:
    caller: str
    taken_s: float
    limit: asyncio.Timeout = field(default_factory=partial(asyncio.timeout, None))
    """None while reading has not begun."""
    gone: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    caller: str
    connection: str
    place: asyncio.Future[_Place] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Intake:
    """Reads requests, a few at a time, of each caller in turn, and of its connections in turn.

    Many clients may call from one address: one that never sends what it announced delays the others
    no longer than it would from another address.
    """

    def __init__(self, reads_max: int = READS_MAX) -> None:
        self._loop = asyncio.get_running_loop()
        self._places = Shared("requests read at once", reads_max)
        self._taken: dict[_Place, None] = {}
        """The oldest first."""
        self._waiting: OrderedDict[str, OrderedDict[str, deque[_Waiting]]] = OrderedDict()
        """By caller and connection; the next in turn stands first."""
        self._served: set[str] = set()
        """Waiting callers that were given a place since the last check."""
        self._look: asyncio.TimerHandle | None = None
        self.cut_off = 0
        """How many requests made way for others, or did not come in time."""

    @property
    def reading(self) -> int:
        """How many requests are being read."""
        return self._places.held

    @property
    def waiting(self) -> int:
        """How many requests wait to be read."""
        return sum(map(self._waiting_of, self._waiting))

    def _waiting_of(self, caller: str) -> int:
        return sum(map(len, self._waiting[caller].values()))

    async def read(
        self,
        caller: str,
        receive: Callable[[], Awaitable[bytes]],
        until_s: float,
        connection: str = "",
    ) -> bytes:
        """Return the result of ``receive``, once it is this caller's turn.

        SlowRequestError if that takes too long, at the latest at ``until_s``.
        """
        try:
            if caller not in self._waiting and self._places.fits(caller, 1):
                place = self._take(caller)
            else:
                async with asyncio.timeout_at(until_s):
                    place = await self._wait(caller, connection)
        except TimeoutError:
            self.cut_off += 1
            raise SlowRequestError("it was not read in time") from None
        try:
            async with place.limit:
                place.limit.reschedule(min(until_s, place.taken_s + READ_S))
                return await read_spread(receive)
        except TimeoutError:
            if not place.limit.expired():
                raise
            self.cut_off += 1
            spent_s = self._loop.time() - place.taken_s
            raise SlowRequestError(f"it had not come in full after {spent_s:.1f} s") from None
        finally:
            self._leave(place)

    def _take(self, caller: str) -> _Place:
        self._places.add(caller, 1)
        place = _Place(caller, self._loop.time())
        self._taken[place] = None
        return place

    def _leave(self, place: _Place) -> None:
        if not place.gone:
            self._vacate(place)
        if self._waiting:
            self._hand_out()

    def _vacate(self, place: _Place) -> None:
        place.gone = True
        del self._taken[place]
        self._places.give_back(place.caller, 1)

    async def _wait(self, caller: str, connection: str) -> _Place:
        mine = _Waiting(caller, connection)
        connections = self._waiting.setdefault(caller, OrderedDict())
        connections.setdefault(connection, deque()).append(mine)
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._make_way)
        try:
            return await mine.place
        except BaseException:
            if mine.place.done() and not mine.place.cancelled():
                # Granted at the very moment of the timeout or of the cancellation.
                self._leave(mine.place.result())
            else:
                self._forget(mine)
            raise

    def _forget(self, waiting: _Waiting) -> None:
        connections = self._waiting.get(waiting.caller, OrderedDict[str, deque[_Waiting]]())
        queue = connections.get(waiting.connection)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del connections[waiting.connection]
            if not connections:
                del self._waiting[waiting.caller]

    def _hand_out(self) -> None:
        """Give free places to waiting callers in turn."""
        passed = 0
        while passed < len(self._waiting):
            caller, connections = next(iter(self._waiting.items()))
            if not self._places.fits(caller, 1):
                self._waiting.move_to_end(caller)
                passed += 1
                continue
            connection, queue = next(iter(connections.items()))
            waiting = queue.popleft()
            if queue:
                connections.move_to_end(connection)
            else:
                del connections[connection]
            if connections:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]
            passed = 0
            if not waiting.place.done():
                self._served.add(caller)
                waiting.place.set_result(self._take(caller))

    def _make_way(self) -> None:
        """Cut off requests that come too slowly while another caller waits unserved."""
        self._look = None
        # On a busy node some caller always waits, each for an instant.
        stuck = [caller for caller in self._waiting if caller not in self._served]
        self._served.clear()
        if not self._waiting:
            return
        if stuck:
            self._cut_off(stuck)
        self._hand_out()
        self._look = self._loop.call_later(LOOK_S, self._make_way)

    def _cut_off(self, stuck: list[str]) -> None:
        now_s = self._loop.time()
        fewest = min(map(self._places.of, stuck))
        slow = [place for place in self._taken if self._is_slow(place, now_s, fewest)]
        for place in slow[: sum(map(self._waiting_of, stuck))]:
            self._vacate(place)
            place.limit.reschedule(now_s)

    def _is_slow(self, place: _Place, now_s: float, fewest: int) -> bool:
        if place.limit.when() is None:
            return False
        age_s = now_s - place.taken_s
        greedy = self._places.of(place.caller) > fewest + 1
        return age_s >= YIELDS_AFTER_S or (greedy and age_s >= YIELDS_EARLY_S)
