"""Who waits for tasks to claim, and which of them a new task wakes.

A claim waits in its queues together with those that take the same types: a line of an *appetite*.
A task wakes the first of all the lines that take its type, in the order in which their claims came,
and one claim for as many tasks as it asks for: no more are woken than there are tasks, and those
who wait for other types cost nothing.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Final, NamedTuple

from tq.v1 import task_pb2, worker_service_pb2
from tq_cluster.core.operations import ANY_TYPE, Ready
from tq_cluster.core.ordering import EVERY_TYPE, Appetite, type_digest
from tq_cluster.leader.turns import TURN, in_turns

LOOKS_MAX: Final = 2
"""Who is woken and finds nothing wakes the next: the task may be of another type with the same
digest. So many look in vain at most, since mostly somebody else was faster.
"""


PLACES: Final = 4_096
"""In so many lines stands a claim that names 64 queues and 64 types: to take it out of them is a
millisecond's work. What stands in so many together is woken in one turn of the loop.
"""
_LOOKING: Final = 1 << 60
"""Added to the place of one that looks: it probably finds what it wants, and is woken only for what
nobody takes who waits.
"""


class Wake(NamedTuple):
    """What somebody was woken for."""

    queue: str
    digest: int
    tasks: int
    looks: int
    """How many may look in vain."""


class Claimant:
    """One claim that waits, or looks."""

    __slots__ = ("_came", "_for", "_woken", "_woken_for", "appetite", "most", "place", "queues")

    def __init__(self, request: worker_service_pb2.ClaimRequest, came: int) -> None:
        self._came = came
        self.place = came + _LOOKING
        """In the lines; it changes while in none of them."""
        self.queues = tuple(dict.fromkeys(request.queues))
        self.most: int = request.max_tasks
        self.appetite = EVERY_TYPE
        if request.types or request.except_types:
            self.appetite = Appetite(request.types, request.except_types)
        self._woken = asyncio.Event()
        self._woken_for: list[Wake] = []
        """Since it looked last."""
        self._for: list[Wake] = []
        """What it looks for now."""

    def looks(self, *, now: bool) -> None:
        """Look from now on, or wait at its place."""
        self.place = self._came + (_LOOKING if now else 0)

    @property
    def places(self) -> int:
        """In how many lines it stands."""
        return len(self.queues) * max(1, len(self.appetite.only or ()))

    @property
    def woken(self) -> bool:
        """Whether something happened since the last wait."""
        return self._woken.is_set()

    def wake(self, *wakes: Wake) -> None:
        """Let it look again."""
        self._woken_for += wakes
        self._woken.set()

    async def wait(self, within_s: float) -> bool:
        """Wait to be woken; False when ``within_s`` passed first, at once where it has passed."""
        if within_s <= 0:
            return False
        try:
            async with asyncio.timeout(within_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        self._for, self._woken_for = self._woken_for, []
        return True

    def take_wakes(self) -> list[Wake]:
        """What it was woken for and has not looked for to the end."""
        wakes = self._for + self._woken_for
        self._for, self._woken_for = [], []
        return wakes

    def looked_for(self) -> list[Wake]:
        """What the look that has ended was for."""
        wakes, self._for = self._for, []
        return wakes


_Line = list[tuple[int, Claimant]]
"""In the order of their places."""


class _Hall:
    """Those who wait for one queue."""

    def __init__(self) -> None:
        self.lines: dict[Appetite, _Line] = {}
        self._heads_of_types: dict[int, _Line] = {}
        """The first of each line whose appetite is for certain types, by each of them."""
        self._heads_of_rest: _Line = []
        """The first of each line whose appetite is for all types, or all but some."""

    def add(self, claimant: Claimant) -> None:
        line = self.lines.setdefault(claimant.appetite, [])
        before = line[:1]
        insort(line, (claimant.place, claimant))
        self._head_changed(claimant.appetite, before, line[:1])

    def remove(self, claimant: Claimant) -> None:
        line = self.lines[claimant.appetite]
        before = line[:1]
        del line[bisect_left(line, (claimant.place,))]
        if not line:
            del self.lines[claimant.appetite]
        self._head_changed(claimant.appetite, before, line[:1])

    def first(self, digest: int) -> Claimant | None:
        """The first to have come of those who take a type."""
        best = next(iter(self._heads_of_types.get(digest, ())), None)
        for head in self._heads_of_rest:
            # Few are passed: an appetite leaves out 64 types at most.
            if best is not None and best[0] < head[0]:
                break
            if head[1].appetite.takes(digest):
                return head[1]
        return None if best is None else best[1]

    def _head_changed(self, appetite: Appetite, before: _Line, after: _Line) -> None:
        if before == after:
            return
        if appetite.only is None:
            _replace(self._heads_of_rest, before, after)
        for digest in appetite.only or ():
            heads = self._heads_of_types.setdefault(digest, [])
            _replace(heads, before, after)
            if not heads:
                del self._heads_of_types[digest]


def _replace(heads: _Line, before: _Line, after: _Line) -> None:
    for place, _ in before:
        del heads[bisect_left(heads, (place,))]
    for head in after:
        insort(heads, head)


class Claimants:
    """Those who wait for tasks, first come, first woken."""

    def __init__(self) -> None:
        self._places = count()
        self._halls: dict[str, _Hall] = {}
        self._waiting: dict[Claimant, None] = {}
        self._wakes: deque[tuple[Wake, Claimant | None]] = deque()
        """Those that are to be passed on in the next turn of the loop."""
        self._room = PLACES
        """What may be woken until the loop turns; given back only once it is used up."""

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def join(self, request: worker_service_pb2.ClaimRequest) -> Iterator[Claimant]:
        """Wait for what a claim takes until the context ends.

        Join before looking, then look and say what came of it, then wait: what happens between the
        look and the wait wakes, too. What a claim was woken for and leaves is passed on.
        """
        claimant = Claimant(request, next(self._places))
        self._park(claimant)
        try:
            yield claimant
        finally:
            self._unpark(claimant)
            for wake in claimant.take_wakes():
                self._wake(wake)

    async def wait(self, claimant: Claimant, within_s: float) -> bool:
        """Wait for something to happen; False when ``within_s`` passed first."""
        self._unpark(claimant)
        claimant.looks(now=False)
        self._park(claimant)
        woken = await claimant.wait(within_s)
        self._unpark(claimant)
        claimant.looks(now=True)
        self._park(claimant)
        return woken

    def looked(self, claimant: Claimant, specs: Sequence[task_pb2.TaskSpec]) -> None:
        """Pass on what it was woken for and did not take; ``specs`` are what it took.

        What it took may be others, more urgent ones: those it was woken for are still there.
        """
        wakes = claimant.looked_for()
        if not wakes:
            return
        taken = Counter((spec.queue, type_digest(spec.type)) for spec in specs)
        for wake in wakes:
            kind = wake.queue, wake.digest
            left = wake.tasks - taken[kind]
            taken[kind] = max(0, -left)
            looks = wake.looks - (not specs)
            if left > 0 and looks > 0:
                self._wake(wake._replace(tasks=left, looks=looks), but=claimant)

    def wake(self, ready: Ready) -> None:
        """Wake the first of those who take what became ready."""
        hall = self._halls.get(ready.queue)
        if hall is None:
            return
        for digest, tasks in _bounded(ready):
            if digest == ANY_TYPE:
                self._rouse_all([each for line in hall.lines.values() for _, each in line])
            else:
                self._wake(Wake(ready.queue, digest, tasks, LOOKS_MAX))

    def wake_all(self) -> None:
        """Wake everybody."""
        self._rouse_all(list(self._waiting))

    def _rouse_all(self, claimants: list[Claimant]) -> None:
        in_turns(claimants, self._rouse, weigh=lambda each: each.places * TURN // PLACES)

    def _wake(self, wake: Wake, but: Claimant | None = None) -> None:
        self._wakes.append((wake, but))
        if self._room > 0:
            self._go_on()

    def _turn(self) -> None:
        self._room = PLACES
        self._go_on()

    def _go_on(self) -> None:
        while self._wakes and self._room > 0:
            wake, but = self._wakes.popleft()
            left = self._wake_first(wake, but)
            if left > 0:
                self._wakes.appendleft((wake._replace(tasks=left), but))
        if self._room <= 0:
            asyncio.get_running_loop().call_soon(self._turn)

    def _wake_first(self, wake: Wake, but: Claimant | None) -> int:
        """Wake the first for as many tasks as they ask for; return how many tasks were not seen to.

        Those are for the next turn of the loop.
        """
        passed_by = but if but in self._waiting else None
        if passed_by is not None:
            self._unpark(passed_by)
        left = wake.tasks
        while left > 0 and self._room > 0:
            hall = self._halls.get(wake.queue)
            claimant = None if hall is None else hall.first(wake.digest)
            if claimant is None:
                left = 0
                break
            tasks = min(left, claimant.most)
            self._rouse(claimant, wake._replace(tasks=tasks))
            self._room -= claimant.places
            left -= tasks
        if passed_by is not None:
            self._park(passed_by)
        return left

    def _rouse(self, claimant: Claimant, *wakes: Wake) -> None:
        self._unpark(claimant)
        claimant.wake(*wakes)

    def _park(self, claimant: Claimant) -> None:
        """Put it where its place is, unless it was woken again meanwhile."""
        if claimant.woken or claimant in self._waiting:
            return
        self._waiting[claimant] = None
        for queue in claimant.queues:
            self._halls.setdefault(queue, _Hall()).add(claimant)

    def _unpark(self, claimant: Claimant) -> None:
        if claimant not in self._waiting:
            return
        del self._waiting[claimant]
        for queue in claimant.queues:
            hall = self._halls[queue]
            hall.remove(claimant)
            if not hall.lines:
                del self._halls[queue]


def _bounded(ready: Ready) -> Iterator[tuple[int, int]]:
    """What became ready by type, as far as it is there: some may be another's already."""
    by_type: Mapping[int, int] = ready.by_type
    for digest, tasks in by_type.items():
        yield digest, min(tasks, ready.pending)
