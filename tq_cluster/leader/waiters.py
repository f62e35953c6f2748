"""Long polls: callers who wait for a task to claim, or for a task to finish."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Topic = TypeVar("Topic", bound=str)

WAKE_AGAIN = 2
"""How many more are woken by each that found something: everybody is awake after a few rounds, and
one new task does not wake a thousand idle workers.
"""


class Waiter:
    """One caller's place in the queue of those who wait."""

    __slots__ = ("_woken", "picky")

    def __init__(self, *, picky: bool) -> None:
        self._woken = asyncio.Event()
        self.picky = picky
        """It may find nothing where another would."""

    @property
    def woken(self) -> bool:
        """Whether something happened since the last wait."""
        return self._woken.is_set()

    def wake(self) -> None:
        """Let it look again."""
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
        return True


class Waiters(Generic[Topic]):
    """Who waits for what, first come, first woken."""

    def __init__(self) -> None:
        self._by_topic: dict[Topic, OrderedDict[Waiter, None]] = {}

    def __len__(self) -> int:
        return len({id(waiter) for queue in self._by_topic.values() for waiter in queue})

    @contextmanager
    def join(self, topics: Iterable[Topic], *, picky: bool = False) -> Iterator[Waiter]:
        """Wait for any of ``topics`` until the context ends.

        Join before looking, then look, then wait: what happens between the look and the wait
        wakes, too. Who leaves with a wake that it has not looked after passes that on. One that is
        ``picky`` is woken besides the others, never in the place of one.
        """
        waiter = Waiter(picky=picky)
        joined = list(dict.fromkeys(topics))
        for topic in joined:
            self._by_topic.setdefault(topic, OrderedDict())[waiter] = None
        try:
            yield waiter
        finally:
            for topic in joined:
                queue = self._by_topic[topic]
                del queue[waiter]
                if not queue:
                    del self._by_topic[topic]
                elif waiter.woken:
                    self.wake(topic, 1)

    def wake(self, topic: Topic, most: int) -> None:
        """Wake the first ``most`` that wait for ``topic`` and were not woken yet."""
        for waiter in self._by_topic.get(topic, ()):
            if most <= 0:
                return
            if not waiter.woken:
                waiter.wake()
                most -= not waiter.picky

    def wake_all(self, topic: Topic | None = None) -> None:
        """Wake everybody, or everybody who waits for ``topic``."""
        topics = list(self._by_topic) if topic is None else [topic]
        for each in topics:
            for waiter in self._by_topic.get(each, ()):
                waiter.wake()
