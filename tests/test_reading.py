"""Reads that take turns: what the event loop gives to all of them, and to each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from tq_cluster import reading as reading_module
from tq_cluster.core.reads.steps import STEP_COST, Reader, Steps
from tq_cluster.core.rows.view import View
from tq_cluster.reading import ANSWER_COST, TURN_COST, UNDER_WAY_MAX, Reading
from tq_cluster.storage.memory import MemoryStore

VIEW = MemoryStore().view()
TABLE = 5


def opened() -> AbstractContextManager[View]:
    return nullcontext(VIEW)


class Turns:
    """Counts the turns of the loop, and what was read in each."""

    def __init__(self) -> None:
        self.read: list[int] = [0]
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._turn)
        self._over = False

    def stop(self) -> None:
        self._over = True

    def _turn(self) -> None:
        self.read.append(0)
        if not self._over:
            self._loop.call_soon(self._turn)


def reads(
    turns: Turns | None, rows: int, done: Callable[[], str] = lambda: "read"
) -> Callable[[Reader], Steps[str]]:
    """A read of so many rows."""

    def query(view: Reader) -> Steps[str]:
        for _ in range(rows):
            view.get(TABLE, b"no such key")
            if turns is not None:
                turns.read[-1] += 1
            if view.step_is_over:
                yield
        return done()

    return query


async def test_a_read_that_comes_alone_is_answered_in_the_turn_in_which_it_came() -> None:
    turns = Turns()
    try:
        assert await Reading().answer(reads(turns, 10), opened) == "read"
    finally:
        turns.stop()

    assert turns.read == [10]


@pytest.mark.parametrize(("count", "rows"), [(1_000, 3), (50, STEP_COST), (5, 20 * STEP_COST)])
async def test_many_reads_at_once_leave_the_loop_to_others_between_their_steps(
    count: int, rows: int
) -> None:
    reading, turns = Reading(), Turns()
    try:
        answers = await asyncio.gather(
            *(reading.answer(reads(turns, rows), opened) for _ in range(count))
        )
    finally:
        turns.stop()

    assert answers == ["read"] * count
    assert sum(turns.read) == count * rows
    # What was left of the turn before is read beside the turn that begins.
    assert max(turns.read) <= 2 * (TURN_COST + STEP_COST)


async def test_a_small_read_does_not_wait_for_a_large_one_to_end() -> None:
    reading = Reading()
    ended: list[str] = []

    async def read(name: str, rows: int) -> None:
        await reading.answer(reads(None, rows), opened)
        ended.append(name)

    await asyncio.gather(read("large", 100 * STEP_COST), read("small", 1))

    assert ended == ["small", "large"]


@pytest.mark.parametrize("begun_max", [0, 128])
async def test_a_few_reads_hold_parts_of_their_answers_however_many_there_are(
    begun_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "BEGUN_MAX", begun_max)
    reading = Reading()
    holding: set[int] = set()
    most = 0

    def large(number: int) -> Callable[[Reader], Steps[int]]:
        def query(view: Reader) -> Steps[int]:
            nonlocal most
            try:
                for _ in range(5 * STEP_COST):
                    view.get(TABLE, b"no such key")
                    if view.cost > 2 * STEP_COST:
                        holding.add(number)
                        most = max(most, len(holding))
                    if view.step_is_over:
                        yield
                return number
            finally:
                holding.discard(number)

        return query

    answers = [asyncio.create_task(reading.answer(large(n), opened)) for n in range(30)]
    await asyncio.sleep(0)
    answers[20].cancel()
    answered = await asyncio.gather(*answers, return_exceptions=True)
    small = await reading.answer(reads(None, 1), opened)

    assert [n for n in answered if isinstance(n, int)] == [n for n in range(30) if n != 20]
    assert most == UNDER_WAY_MAX
    assert small == "read"


async def test_one_large_answer_a_turn_is_put_into_bytes() -> None:
    reading, turns = Reading(), Turns()
    ended: list[int] = []

    def done() -> str:
        ended.append(len(turns.read))
        return "read"

    try:
        rows = STEP_COST + 1  # so that a turn would have room for the ends of many
        await asyncio.gather(*(reading.answer(reads(turns, rows, done), opened) for _ in range(20)))
    finally:
        turns.stop()

    assert len(set(ended)) == 20


async def test_a_few_small_answers_a_turn_are_sent() -> None:
    reading, turns = Reading(), Turns()
    ended: list[int] = []

    def done() -> str:
        ended.append(len(turns.read))
        return "read"

    try:
        await asyncio.gather(*(reading.answer(reads(turns, 1, done), opened) for _ in range(400)))
    finally:
        turns.stop()

    assert max(Counter(ended).values()) <= 2 * TURN_COST / ANSWER_COST


async def test_a_read_whose_caller_has_gone_reads_no_more() -> None:
    reading = Reading()
    closed: list[str] = []

    def endless(view: Reader) -> Steps[None]:
        try:
            while True:
                view.get(TABLE, b"no such key")
                yield
        finally:
            closed.append("closed")

    call = asyncio.create_task(reading.answer(endless, opened))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    # The next read takes the turn that the cancelled one would have had.
    assert await reading.answer(reads(None, 5 * STEP_COST), opened) == "read"

    assert closed == ["closed"]


async def test_a_fault_of_a_read_is_its_callers_and_the_others_go_on() -> None:
    reading = Reading()

    def broken(view: Reader) -> Steps[None]:
        view.get(TABLE, b"no such key")
        yield
        raise LookupError("a row is missing")

    answers = await asyncio.gather(
        reading.answer(broken, opened),
        reading.answer(reads(None, 3 * STEP_COST), opened),
        return_exceptions=True,
    )

    assert isinstance(answers[0], LookupError)
    assert answers[1] == "read"


async def test_each_step_sees_the_state_as_it_is_by_then_and_holds_it_no_longer() -> None:
    reading = Reading()
    open_now, seen = 0, 0

    @contextmanager
    def counted() -> Iterator[View]:
        nonlocal open_now, seen
        open_now += 1
        seen += 1
        try:
            yield VIEW
        finally:
            open_now -= 1

    call = asyncio.create_task(reading.answer(reads(None, 4 * STEP_COST + 1), counted))
    while not call.done():
        await asyncio.sleep(0)
        assert open_now == 0

    assert seen == 5
