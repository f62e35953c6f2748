"""The ticker looks for due work as often as something may have become due, and not more often."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable

import pytest

from tests.patience import PATIENCE_S
from tq_cluster.beats import BEAT_S
from tq_cluster.leader.leases import LeaseTable
from tq_cluster.leader.ticker import TICK_S, Ticker


class Work:
    """Work that becomes due when a test says so; notes when the ticker looked."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_due = False
        self.quiet_for_s = math.inf
        self.error: Exception | None = None
        self.looks_s: list[float] = []
        self.woken = asyncio.Event()
        self.fatal: list[BaseException] = []
        self.leases = LeaseTable(self.loop.time)
        self.ticker = Ticker(
            leases=self.leases, due=self.due, quiet_s=self.quiet_s, fatal=self.fatal.append
        )

    def due(self) -> bool:
        if self.error is not None:
            raise self.error
        self.looks_s.append(self.loop.time())
        return self.is_due

    def quiet_s(self) -> float:
        return self.quiet_for_s

    async def looked(self, times: int = 1) -> None:
        """Wait for so many more looks."""
        before = len(self.looks_s)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.looks_s) < before + times:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.001)

    async def rests(self, as_wanted: Callable[[float], bool]) -> None:
        """Wait for a look after which the ticker plans such a rest."""
        await self.looked()
        async with asyncio.timeout(PATIENCE_S):
            while not as_wanted(self.rest_s):
                await self.looked()

    @property
    def rest_s(self) -> float:
        """How long the ticker planned to rest at its last look."""
        return self.ticker._next_s - self.looks_s[-1]


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    work = Work()
    work.ticker.start(work.woken.set)
    yield work
    work.ticker.stop()


async def test_while_nothing_can_become_due_it_rests_until_the_next_beat(work: Work) -> None:
    await work.looked()
    planned_s = work.ticker._next_s

    assert work.rest_s >= BEAT_S / 2
    assert planned_s / BEAT_S == pytest.approx(round(planned_s / BEAT_S))
    await work.looked()
    assert work.looks_s[-1] >= planned_s


async def test_it_looks_when_the_next_item_is_due_and_while_nothing_is_known(work: Work) -> None:
    work.quiet_for_s = 0.04
    await work.rests(lambda rest_s: TICK_S < rest_s < BEAT_S / 2)
    work.quiet_for_s = 0.0
    await work.rests(lambda rest_s: rest_s < 2 * TICK_S)


async def test_a_change_of_the_state_ends_a_rest_but_not_a_short_one(work: Work) -> None:
    await work.looked()
    assert work.rest_s > TICK_S
    work.ticker.changed()
    soon_s = work.ticker._next_s
    assert soon_s <= work.loop.time() + TICK_S

    work.ticker.changed()
    assert work.ticker._next_s == soon_s, "changes that follow each other do not put it off"


async def test_what_is_due_wakes_and_keeps_it_looking(work: Work) -> None:
    work.is_due = True
    async with asyncio.timeout(PATIENCE_S):
        await work.woken.wait()
    await work.rests(lambda rest_s: rest_s < 2 * TICK_S)


async def test_an_error_is_fatal_and_a_stopped_ticker_looks_no_more(work: Work) -> None:
    work.error = RuntimeError("a fault")
    async with asyncio.timeout(PATIENCE_S):
        while not work.fatal:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.001)
    assert work.fatal == [work.error]

    other = Work()
    other.ticker.start(other.woken.set)
    await other.looked()
    other.ticker.stop()
    other.ticker.changed()
    looks = len(other.looks_s)
    await asyncio.sleep(3 * TICK_S)
    assert len(other.looks_s) == looks


async def test_a_rest_is_no_stall_of_the_leader(work: Work) -> None:
    await work.looked()
    assert work.leases._pass_at_s == work.ticker._next_s
    work.ticker.changed()
    assert work.leases._pass_at_s == work.ticker._next_s
