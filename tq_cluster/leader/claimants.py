"""The claims that wait for tasks, and which of them a new task wakes.

Claims with the same queues and types (their *appetite*) wait in one line. A second claim in a line
changes only that line, however many queues and types it names. A task wakes the first claim of all
lines that take its type, in the order in which the claims came. One claim is woken for as many
tasks as it asks for, so no more claims are woken than there are tasks, and claims for other types
cost nothing.

Mostly a claim need not be woken at all: it is taken out of its line and decided in the entry that
makes its task ready (ADR 25).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

from tq.v1 import task_pb2
from tq_cluster.core.kernel.ready_order import EVERY_TYPE, Appetite, type_digest
from tq_cluster.core.model.operations import ANY_TYPE, Claim, Outcome, Ready
from tq_cluster.leader.turns import TURN, in_turns
from tq_cluster.leader.waiters import Waiter

LOOKS_MAX: Final = 2
"""How many claims in a row may be woken for a task in vain. A claim that is woken and finds nothing
wakes the next, because the task may be of another type with the same digest; mostly another claim
was faster.
"""


MET_AT_ONCE: Final = 16
"""How many claims are taken at once to be decided with what they wait for. If the entry has no room
for some of them, those go first into the next.
"""
PLACES: Final = 4_096
"""How many places may be looked at or changed in one turn of the loop: queues and types of the
woken claims, and lines in which they are first. About 1 ms of work.
"""
_LOOKING: Final = 1 << 60
"""Added to the place of a claim that is looking. It probably finds what it wants, so it is woken
only for tasks that no waiting claim takes.
"""


class Wake(NamedTuple):
    """What a claim was woken for."""

    namespace: int
    queue: str
    digest: int
    tasks: int
    looks: int
    """How many more claims may look in vain."""


class Claimant:
    """One claim that waits, or looks."""

    __slots__ = (
        "_came",
        "_decided",
        "_for",
        "_waiter",
        "_woken_for",
        "appetite",
        "most",
        "namespace",
        "operation",
        "place",
        "queues",
    )

    def __init__(self, operation: Claim, came: int) -> None:
        request = operation.request
        self._came = came
        self.operation = operation
        self.namespace = operation.caller.namespace
        self.place = came + _LOOKING
        """Its place in its line; it changes only while the claim is not in the line."""
        self.queues = tuple(dict.fromkeys(request.queues))
        self.most: int = request.max_tasks
        self.appetite = EVERY_TYPE
        if request.types or request.except_types:
            self.appetite = Appetite(request.types, request.except_types)
        self._waiter = Waiter()
        self._woken_for: list[Wake] = []
        """What the claim was woken for since its last look."""
        self._for: list[Wake] = []
        """What the current look is for."""
        self._decided: asyncio.Future[Outcome] | None = None

    def looks(self, *, now: bool) -> None:
        """Look from now on, or wait at its place."""
        self.place = self._came + (_LOOKING if now else 0)

    @property
    def places(self) -> int:
        """How many queues and types the claim may have to be removed from."""
        return len(self.queues) + len(self.appetite.only or ())

    @property
    def woken(self) -> bool:
        """Whether something happened since the last wait."""
        return self._waiter.woken

    def wake(self, *wakes: Wake) -> None:
        """Let it look again."""
        self._woken_for += wakes
        self._waiter.wake()

    def await_outcome(self, decided: asyncio.Future[Outcome]) -> None:
        """Wake it to await its outcome: it is decided with what made its tasks ready."""
        self._decided = decided
        self._waiter.wake()

    def take_decided(self) -> asyncio.Future[Outcome] | None:
        """Take the outcome of a decision that it was met for."""
        decided, self._decided = self._decided, None
        return decided

    async def wait(self, within_s: float) -> bool:
        """Wait to be woken; False if ``within_s`` passed first, at once if it is not above 0."""
        if not await self._waiter.wait(within_s):
            return False
        self._for, self._woken_for = self._woken_for, []
        return True

    def take_wakes(self) -> list[Wake]:
        """Take what the claim was woken for and has not finished looking for."""
        wakes = self._for + self._woken_for
        self._for, self._woken_for = [], []
        return wakes

    def looked_for(self) -> list[Wake]:
        """Take what the look that has ended was for."""
        wakes, self._for = self._for, []
        return wakes


class _Line:
    """The claims that wait for the same types of the same queues, in order of arrival."""

    __slots__ = ("appetite", "claimants", "namespace", "queues", "stands_at")

    def __init__(self, namespace: int, queues: Sequence[str], appetite: Appetite) -> None:
        self.namespace = namespace
        self.queues = queues
        self.appetite = appetite
        self.claimants: list[tuple[int, Claimant]] = []
        """Sorted by place."""
        self.stands_at: int | None = None
        """The first place as the halls know it; None while they do not hold this line."""

    @property
    def first_place(self) -> int | None:
        """The place of the first claim; None if no claim waits."""
        return self.claimants[0][0] if self.claimants else None

    def add(self, claimant: Claimant) -> None:
        insort(self.claimants, (claimant.place, claimant))

    def remove(self, claimant: Claimant) -> None:
        del self.claimants[bisect_left(self.claimants, (claimant.place,))]


@dataclass(slots=True)
class _Hall:
    """The lines before one queue."""

    named: dict[_Line, None] = field(default_factory=dict)
    """Lines whose appetites name certain types."""
    rest: list[tuple[int, _Line]] = field(default_factory=list)
    """Lines for all types, or all but some; sorted by the place of the first claim."""

    @property
    def lines(self) -> list[_Line]:
        return [*self.named, *(line for _, line in self.rest)]


class Claimants:
    """The claims that wait for tasks: first come, first woken."""

    def __init__(self) -> None:
        self._places = count()
        self._lines: dict[tuple[int, Sequence[str], Appetite], _Line] = {}
        self._halls: dict[tuple[int, str], _Hall] = {}
        """By namespace and queue."""
        self._naming: dict[int, dict[_Line, None]] = {}
        """The lines whose appetites name certain types, by type."""
        self._waiting: dict[Claimant, _Line] = {}
        self._wakes: deque[tuple[Wake, Claimant | None]] = deque()
        """Wakes to pass on in the next turn of the loop."""
        self._room = PLACES
        """How many more places this turn may look at; restored in a new turn once used up."""

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def join(self, operation: Claim) -> Iterator[Claimant]:
        """Wait for tasks that a claim takes until the context ends.

        Join first, then look and call ``looked``, then wait: an event between the look and the wait
        wakes the claim, too. What a claim was woken for and does not take is passed on.
        """
        claimant = Claimant(operation, next(self._places))
        self._park(claimant)
        try:
            yield claimant
        finally:
            self._unpark(claimant)
            for wake in claimant.take_wakes():
                self._wake(wake)

    async def wait(self, claimant: Claimant, within_s: float) -> bool:
        """Wait for an event; return False if ``within_s`` passed first."""
        self._move(claimant, looks=False)
        woken = await claimant.wait(within_s)
        self._move(claimant, looks=True)
        return woken

    def looked(self, claimant: Claimant, specs: Sequence[task_pb2.TaskSpec]) -> None:
        """Pass on what the claim was woken for and did not take; ``specs`` are what it took.

        It may have taken other, more urgent tasks: then those it was woken for are still there.
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

    def take_for(self, ready: Iterable[Ready]) -> list[Claimant]:
        """Take the claims that came first of those that wait for what became ready.

        They ask together for about as many tasks as there are, and are no more than
        ``MET_AT_ONCE``. Each has to be given the outcome to await (`Claimant.await_outcome`).
        """
        met: list[Claimant] = []
        had_room = self._room > 0
        for each in ready:
            for digest, tasks in each.by_type.items():
                left = tasks
                while left > 0 and self._room > 0 and len(met) < MET_AT_ONCE:
                    claimant = self._first(each.namespace, each.queue, digest)
                    if claimant is None or claimant.place >= _LOOKING:
                        break
                    self._unpark(claimant)
                    met.append(claimant)
                    self._room -= claimant.places
                    left -= claimant.most
        if had_room and self._room <= 0:
            asyncio.get_running_loop().call_soon(self._turn)
        return met

    def wake(self, ready: Ready) -> None:
        """Wake the first claims that take what became ready."""
        hall = self._halls.get((ready.namespace, ready.queue))
        if hall is None:
            return
        for digest, tasks in _bounded(ready):
            if digest == ANY_TYPE:
                self._rouse_all([each for line in hall.lines for _, each in line.claimants])
            else:
                self._wake(Wake(ready.namespace, ready.queue, digest, tasks, LOOKS_MAX))

    def wake_all(self) -> None:
        """Wake all claims."""
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
        """Wake the first claims for as many tasks as they ask for; return how many tasks are left.

        The rest is handled in the next turn of the loop.
        """
        passed_by = but if but in self._waiting else None
        if passed_by is not None:
            self._unpark(passed_by)
        left = wake.tasks
        while left > 0 and self._room > 0:
            claimant = self._first(wake.namespace, wake.queue, wake.digest)
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

    def _first(self, namespace: int, queue: str, digest: int) -> Claimant | None:
        """Return the claim that came first of those that take a type of a queue."""
        hall = self._halls.get((namespace, queue))
        if hall is None:
            return None
        few, many = sorted((hall.named, self._naming.get(digest, {})), key=len)
        self._room -= len(few)
        best = min((line.claimants[0] for line in few if line in many), key=_place_of, default=None)
        for place, line in hall.rest:
            # Few are skipped: an appetite leaves out 64 types at most.
            if best is not None and best[0] < place:
                break
            self._room -= 1
            if line.appetite.takes(digest):
                return line.claimants[0][1]
        return None if best is None else best[1]

    def _park(self, claimant: Claimant) -> None:
        """Put the claim at its place in its line, unless it was woken again meanwhile."""
        if claimant.woken or claimant in self._waiting:
            return
        key = claimant.namespace, claimant.queues, claimant.appetite
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(*key)
        self._waiting[claimant] = line
        line.add(claimant)
        self._settle(line)

    def _unpark(self, claimant: Claimant) -> None:
        line = self._waiting.pop(claimant, None)
        if line is not None:
            line.remove(claimant)
            self._settle(line)

    def _move(self, claimant: Claimant, *, looks: bool) -> None:
        """Mark the claim as looking or waiting; move it to its place unless it was woken."""
        line = self._waiting.get(claimant)
        if line is not None:
            line.remove(claimant)
        claimant.looks(now=looks)
        if line is None:
            self._park(claimant)
        else:
            line.add(claimant)
            self._settle(line)

    def _settle(self, line: _Line) -> None:
        """Update the halls with the line's current state."""
        first, before = line.first_place, line.stands_at
        line.stands_at = first
        if line.appetite.only is None:
            if first != before:
                self._stand(line, before, first)
        elif before is None and first is not None:
            for queue in line.queues:
                self._halls.setdefault((line.namespace, queue), _Hall()).named[line] = None
            for digest in line.appetite.only:
                self._naming.setdefault(digest, {})[line] = None
        elif before is not None and first is None:
            for queue in line.queues:
                del self._halls[line.namespace, queue].named[line]
                self._clear_away(line.namespace, queue)
            for digest in line.appetite.only:
                del self._naming[digest][line]
                if not self._naming[digest]:
                    del self._naming[digest]
        if first is None:
            del self._lines[line.namespace, line.queues, line.appetite]

    def _stand(self, line: _Line, before: int | None, first: int | None) -> None:
        for queue in line.queues:
            hall = self._halls.setdefault((line.namespace, queue), _Hall())
            if before is not None:
                del hall.rest[bisect_left(hall.rest, (before,))]
            if first is not None:
                insort(hall.rest, (first, line))
            self._clear_away(line.namespace, queue)

    def _clear_away(self, namespace: int, queue: str) -> None:
        hall = self._halls[namespace, queue]
        if not hall.named and not hall.rest:
            del self._halls[namespace, queue]


def _place_of(first: tuple[int, Claimant]) -> int:
    return first[0]


def _bounded(ready: Ready) -> Iterator[tuple[int, int]]:
    """Yield what became ready by type, no more than is pending: some may be taken already."""
    by_type: Mapping[int, int] = ready.by_type
    for digest, tasks in by_type.items():
        yield digest, min(tasks, ready.pending)
