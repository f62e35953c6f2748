"""Looks at the oldest objects: seldom, and the more seldom the longer they take."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tq_process.garbage import EVERY_S, SHARE, OldGarbage


class Clock:
    """A clock that a look takes some time of."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.look_s = 0.0
        self.looks = 0

    def look(self) -> None:
        self.looks += 1
        self.now_s += self.look_s


@pytest.fixture
def clock() -> Iterator[Clock]:
    threshold = gc.get_threshold()
    yield Clock()
    gc.set_threshold(*threshold)
    gc.unfreeze()


async def test_cpython_does_not_look_at_the_oldest_objects_by_itself(clock: Clock) -> None:
    old = OldGarbage(asyncio.get_running_loop(), clock.look, lambda: clock.now_s)
    old.begin()
    before = gc.get_stats()[2]["collections"]
    kept = [[each] for each in range(200_000)]

    assert gc.get_stats()[2]["collections"] == before
    old.end()
    kept += [[each] for each in range(200_000)]
    assert gc.get_stats()[2]["collections"] > before


async def test_a_look_that_takes_long_is_taken_seldom(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    waits: list[float] = []

    def call_later(delay_s: float, look: object) -> asyncio.TimerHandle:
        waits.append(delay_s)
        return asyncio.TimerHandle(0.0, lambda: None, (), loop)

    monkeypatch.setattr(loop, "call_later", call_later)
    old = OldGarbage(loop, clock.look, lambda: clock.now_s)
    old.begin()
    clock.look_s = 0.005
    old._look()
    clock.look_s = 0.3
    old._look()

    assert clock.looks == 3
    assert waits == pytest.approx([EVERY_S, EVERY_S, 0.3 / SHARE])
