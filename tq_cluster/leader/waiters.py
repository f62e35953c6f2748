"""Long polls that wait for a task to finish; claims that wait for tasks are in claimants.py."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tq_cluster.leader.turns import in_turns

Topic = TypeVar("Topic", bound=Hashable)


class Waiter:
    """One waiting call."""

    __slots__ = ("_woken",)

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    @property
    def woken(self) -> bool:
        """Whether something happened since the last wait."""
        return self._woken.is_set()

    def wake(self) -> None:
        """Let it look again."""
        self._woken.set()

    async def wait(self, within_s: float) -> bool:
        """Wait to be woken; False if ``within_s`` passed first, at once if it is not above 0."""
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
    """The waiting calls by topic."""

    def __init__(self) -> None:
        self._by_topic: dict[Topic, dict[Waiter, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_topic.values()))

    @contextmanager
    def join(self, topic: Topic) -> Iterator[Waiter]:
        """Wait for ``topic`` until the context ends.

        Join first, then look, then wait: an event between the look and the wait wakes the call,
        too.
        """
        waiter = Waiter()
        self._by_topic.setdefault(topic, {})[waiter] = None
        try:
            yield waiter
        finally:
            waiters = self._by_topic[topic]
            del waiters[waiter]
            if not waiters:
                del self._by_topic[topic]

    def wake_all(self, topic: Topic | None = None) -> None:
        """Wake all calls, or all that wait for ``topic``."""
        if topic is None:
            waiting = [waiter for waiters in self._by_topic.values() for waiter in waiters]
        elif topic in self._by_topic:
            waiting = list(self._by_topic[topic])
        else:
            return
        in_turns(waiting, Waiter.wake)
