"""Long polls that wait for a task to finish; claims that wait for tasks are in claimants.py."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tq_cluster.leader.turns import in_turns

Topic = TypeVar("Topic", bound=Hashable)


class Waiter:
    """One waiting call. Thousands may wait, so it holds one future and one timer."""

    __slots__ = ("_asleep", "_woken")

    def __init__(self) -> None:
        self._asleep: asyncio.Future[None] | None = None
        self._woken = False

    @property
    def woken(self) -> bool:
        """Whether something happened since the last wait."""
        return self._woken

    def wake(self) -> None:
        """Let it look again."""
        self._woken = True
        self._rise()

    async def wait(self, within_s: float) -> bool:
        """Wait to be woken; False if ``within_s`` passed first, at once if it is not above 0."""
        if within_s <= 0:
            return False
        if not self._woken:
            loop = asyncio.get_running_loop()
            self._asleep = loop.create_future()
            timer = loop.call_later(within_s, self._rise)
            try:
                await self._asleep
            finally:
                timer.cancel()
                self._asleep = None
        woken, self._woken = self._woken, False
        return woken

    def _rise(self) -> None:
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)


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
