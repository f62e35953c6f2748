"""Long polls: who waits for a task to finish. Those who wait to claim are in claimants.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tq_cluster.leader.turns import in_turns

Topic = TypeVar("Topic", bound=str)


class Waiter:
    """One caller who waits."""

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
    """Who waits for what."""

    def __init__(self) -> None:
        self._by_topic: dict[Topic, dict[Waiter, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_topic.values()))

    @contextmanager
    def join(self, topic: Topic) -> Iterator[Waiter]:
        """Wait for ``topic`` until the context ends.

        Join before looking, then look, then wait: what happens between the look and the wait
        wakes, too.
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
        """Wake everybody, or everybody who waits for ``topic``."""
        if topic is None:
            waiting = [waiter for waiters in self._by_topic.values() for waiter in waiters]
        elif topic in self._by_topic:
            waiting = list(self._by_topic[topic])
        else:
            return
        in_turns(waiting, Waiter.wake)
