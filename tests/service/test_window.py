"""How many calls are sent to a leader that is behind."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.service.fakes import until
from tq_cluster.service.aimd_window import LEAST, SLOW_S, ShedError, Window

LATE_S = SLOW_S + 0.1


async def entered(window: Window, calls: int) -> None:
    for _ in range(calls):
        await window.enter(math.inf)


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def narrowed(under_way: int) -> Window:
    """A window that has just learned that ``under_way`` are too many; all of them are back."""
    window = Window()
    await entered(window, under_way)
    window.leave(now_s(), LATE_S)
    for _ in range(under_way - 1):
        window.leave(-math.inf, None)
    return window


async def test_every_call_is_sent_while_none_waits_long() -> None:
    window = Window()
    await entered(window, 1_000)
    for _ in range(500):
        window.leave(now_s(), SLOW_S)
    await entered(window, 5_000)

    assert window.under_way == 5_500


async def test_once_one_waits_long_half_as_many_are_sent_and_the_others_take_turns() -> None:
    window = await narrowed(40)
    turns: list[int] = []

    async def call(number: int) -> None:
        await window.enter(math.inf)
        turns.append(number)

    calls = [asyncio.create_task(call(number)) for number in range(25)]
    await until(lambda: window.waiting == 5, "five wait")
    assert turns == list(range(20))

    for _ in range(5):
        window.leave(now_s(), None)
    await asyncio.gather(*calls)

    assert turns == list(range(25))
    assert window.under_way == 20


async def test_calls_that_were_under_way_together_narrow_it_once() -> None:
    window = Window()
    await entered(window, 40)
    sent_s = now_s() - LATE_S
    for _ in range(40):
        window.leave(sent_s, LATE_S)

    assert window.size == 20


async def test_some_are_always_sent() -> None:
    window = Window()
    for _ in range(20):
        await entered(window, 1)
        window.leave(now_s(), LATE_S)

    assert window.size == LEAST


async def test_it_widens_while_calls_are_begun_on_at_once() -> None:
    window = await narrowed(40)
    for _ in range(200):
        await entered(window, 1)
        window.leave(now_s(), 0.0)

    assert 40 < window.size < 100


async def test_a_call_that_could_not_be_answered_in_time_any_more_makes_room_for_the_next() -> None:
    window = await narrowed(2 * LEAST)
    await entered(window, LEAST)
    soon = asyncio.create_task(window.enter(now_s() + 60))
    late = asyncio.create_task(window.enter(now_s() + 3_600))
    await until(lambda: window.waiting == 2, "two wait")

    window.leave(now_s() - 1_000, 0.0)  # calls take 125 s on average, then
    await late

    with pytest.raises(ShedError):
        await soon
    assert (window.waiting, window.under_way) == (0, LEAST)


async def test_a_call_waits_no_longer_than_it_may() -> None:
    window = await narrowed(2 * LEAST)
    await entered(window, LEAST)
    with pytest.raises(ShedError):
        await window.enter(now_s() + 0.01)
    window.leave(now_s(), None)

    assert window.under_way == LEAST - 1


@pytest.mark.parametrize("given", [False, True])
async def test_a_caller_that_goes_away_keeps_no_place(given: bool) -> None:
    window = await narrowed(2 * LEAST)
    await entered(window, LEAST)
    gone = asyncio.create_task(window.enter(math.inf))
    await until(lambda: window.waiting == 1, "it waits")
    if given:
        window.leave(now_s(), None)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    if not given:
        window.leave(now_s(), None)

    assert window.under_way == LEAST - 1


async def test_another_leader_is_judged_by_its_own_calls() -> None:
    window = await narrowed(2 * LEAST)
    await entered(window, LEAST)
    sent_s = now_s()
    waits = asyncio.create_task(window.enter(math.inf))
    await until(lambda: window.waiting == 1, "it waits")

    window.reopen(ValueError("n2 leads now"))

    with pytest.raises(ValueError, match="n2 leads now"):
        await waits
    await entered(window, 100)
    for _ in range(LEAST):
        window.leave(sent_s - 1, LATE_S)  # answers, and none, of the leader before
    assert window.size == math.inf
    assert window.under_way == 100
