"""Long work in slices: what of the event loop is left to short work in between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Generator
from itertools import pairwise

import pytest

from tq_cluster.slices import FIRST_IN_A_ROW, REST_S, REST_TURNS_MAX, TURN_S, Slices, slices


class Clock:
    """The time that slices take; it stands still otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now_s)


class Turns:
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.count = 0
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._turn)

    def stop(self) -> None:
        self._over = True

    def _turn(self) -> None:
        self.count += 1
        if not self._over:
            self._loop.call_soon(self._turn)


async def several_turns(count: int = 500) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def taking(
    clock: Clock, seconds: float, done: Callable[[], object] = lambda: None
) -> Callable[[], None]:
    def go_on() -> None:
        clock.now_s += seconds
        done()

    return go_on


async def test_after_a_slice_the_loop_turns_without_one_as_long_as_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, turns, all_ = Clock(monkeypatch), Turns(), Slices()
    ran: list[int] = []
    for took_s in (3.5 * REST_S, 1.0, 0.0, 0.0):
        all_.later(taking(clock, max(took_s, TURN_S), lambda: ran.append(turns.count)))

    await several_turns()
    turns.stop()

    rest = int(max(3.5 * REST_S, TURN_S) / REST_S)
    shortest = int(TURN_S / REST_S)
    gaps = [after - before for before, after in pairwise(ran)]
    assert gaps == [rest + 1, REST_TURNS_MAX + 1, shortest + 1]


async def test_short_slices_share_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns, all_ = Clock(monkeypatch), Turns(), Slices()
    ran: list[int] = []
    for _ in range(6):
        all_.later(taking(clock, TURN_S / 3, lambda: ran.append(turns.count)))

    await several_turns()
    turns.stop()

    assert len(set(ran)) == 2
    assert ran == sorted(ran)
    assert ran.count(ran[0]) == 3


async def test_urgent_slices_have_most_of_the_turns_and_not_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, all_ = Clock(monkeypatch), Slices()
    ran: list[str] = []

    def endless(name: str, *, urgent: bool) -> None:
        def go_on() -> None:
            clock.now_s += 1.0
            ran.append(name)
            if len(ran) < 60:
                all_.later(go_on, urgent=urgent)

        all_.later(go_on, urgent=urgent)

    endless("read", urgent=False)
    endless("decision", urgent=True)
    await several_turns(1_000)

    assert ran[: 2 * (FIRST_IN_A_ROW + 1)] == 2 * [*FIRST_IN_A_ROW * ["decision"], "read"]


async def test_a_slice_that_was_cancelled_does_not_run_and_takes_no_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, all_ = Clock(monkeypatch), Slices()
    ran: list[str] = []
    all_.later(taking(clock, 0.0, lambda: ran.append("cancelled"))).cancel()
    all_.later(taking(clock, 0.0, lambda: ran.append("other")))

    await several_turns(3)

    assert ran == ["other"]


async def test_a_slice_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, all_ = Clock(monkeypatch), Slices()
    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    error = ValueError("a fault")

    def fail() -> None:
        raise error

    ran: list[str] = []
    all_.later(fail)
    all_.later(taking(clock, 0.0, lambda: ran.append("next")))
    await several_turns(20)

    assert told == [error]
    assert ran == ["next"]


def steps(
    count: int, ended: list[int], error: Exception | None = None
) -> Generator[None, None, str]:
    try:
        for _ in range(count):
            yield
        if error is not None:
            raise error
    finally:
        ended.append(count)
    return "result"


async def test_steps_go_through_and_return_their_result_or_their_error() -> None:
    ended: list[int] = []

    assert await slices().through(steps(0, ended)) == "result"
    assert await slices().through(steps(3, ended)) == "result"
    for count in (0, 3):
        with pytest.raises(ValueError, match="a fault"):
            await slices().through(steps(count, ended, ValueError("a fault")))

    assert ended == [0, 3, 0, 3]


async def test_steps_whose_caller_has_gone_are_closed() -> None:
    ended: list[int] = []
    waiting = asyncio.create_task(slices().through(steps(1_000_000, ended)))
    await several_turns(5)

    waiting.cancel()
    await several_turns(20)

    assert waiting.cancelled()
    assert ended == [1_000_000]


async def test_many_requests_in_steps_leave_turns_without_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step takes a millisecond: together they do not make one turn long."""
    clock, turns = Clock(monkeypatch), Turns()
    spent: dict[int, float] = {}

    def slow() -> Generator[None, None, None]:
        for _ in range(10):
            yield
            clock.now_s += 0.001
            spent[turns.count] = spent.get(turns.count, 0.0) + 0.001

    await asyncio.gather(*(slices().through(slow()) for _ in range(50)))
    turns.stop()

    assert sum(spent.values()) == pytest.approx(0.5)
    assert max(spent.values()) == pytest.approx(TURN_S)
    assert turns.count >= len(spent) * (1 + int(TURN_S / REST_S)) - REST_TURNS_MAX


async def test_all_parts_of_a_node_share_the_slices_of_its_loop() -> None:
    first = slices()

    assert slices() is first
    loop = asyncio.new_event_loop()
    try:

        async def elsewhere() -> Slices:
            return slices()

        other = await asyncio.to_thread(loop.run_until_complete, elsewhere())
    finally:
        loop.close()
    assert other is not first


async def test_a_loop_that_is_closed_is_not_kept() -> None:
    async def elsewhere() -> weakref.ref[asyncio.AbstractEventLoop]:
        await slices().through(steps(3, []))
        return weakref.ref(asyncio.get_running_loop())

    kept = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    gc.collect()

    assert kept() is None


class Large:
    """What a request is made of."""


@pytest.mark.parametrize("end", ["returns", "fails", "is left"])
async def test_steps_leave_nothing_for_the_garbage_collector(end: str) -> None:
    """A request of many megabytes is freed with its call, not a minute later."""
    held: list[weakref.ref[Large]] = []

    def steps() -> Generator[None, None, Large]:
        large = Large()
        held.append(weakref.ref(large))
        for _ in range(3):
            yield
        if end == "fails":
            raise ValueError(end)
        return large

    async def call() -> None:
        with contextlib.suppress(ValueError):
            await slices().through(steps())

    gc.collect()
    gc.disable()
    try:
        calling = asyncio.create_task(call())
        await asyncio.sleep(0)
        if end == "is left":
            calling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await calling
        else:
            await calling
        del calling
        await several_turns(20)
        assert [each() for each in held] == [None]
    finally:
        gc.enable()
