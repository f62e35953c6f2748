"""Large messages that are complete at the same time, and the turns in which they are copied."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import pytest

from tests.service.test_turn_limit import Turns
from tq_cluster.service.arrivals import LARGE_BYTES, TURN_BYTES, read_spread
from tq_cluster.service.intake import Intake


class Message:
    """Comes when all others come; what a read does once it goes on counts for that turn."""

    def __init__(self, size: int) -> None:
        self.raw = b"x" * size
        self.copied_in: list[int] = []

    async def read(self, come: asyncio.Event, turns: Turns) -> bytes:
        await come.wait()
        self.copied_in.append(turns.number)
        return self.raw


async def test_large_requests_that_arrive_together_are_copied_in_a_turn_each() -> None:
    come, turns = asyncio.Event(), Turns()
    messages = [Message(TURN_BYTES) for _ in range(5)]
    intake = Intake()
    until_s = asyncio.get_running_loop().time() + 60

    reads = [
        asyncio.ensure_future(intake.read(f"caller {n}", partial(each.read, come, turns), until_s))
        for n, each in enumerate(messages)
    ]
    await asyncio.sleep(0)
    come.set()
    got = await asyncio.gather(*reads)
    turns.stop()

    assert got == [each.raw for each in messages]
    copied = [turn for each in messages for turn in each.copied_in]
    assert max(Counter(copied).values()) == 1, copied
    assert copied == sorted(copied)  # in the order in which they came


@pytest.mark.parametrize("size", [1, LARGE_BYTES - 1, TURN_BYTES // 20])
async def test_small_requests_that_arrive_together_are_copied_in_the_same_turn(size: int) -> None:
    come, turns = asyncio.Event(), Turns()
    messages = [Message(size) for _ in range(20)]

    reads = [
        asyncio.ensure_future(read_spread(partial(each.read, come, turns))) for each in messages
    ]
    await asyncio.sleep(0)
    come.set()
    await asyncio.gather(*reads)
    turns.stop()

    assert len({turn for each in messages for turn in each.copied_in}) == 1


async def test_a_read_that_is_given_up_ends_while_it_waits_for_its_turn() -> None:
    come, turns = asyncio.Event(), Turns()
    first, second, third = (Message(TURN_BYTES) for _ in range(3))
    reads = [
        asyncio.ensure_future(read_spread(partial(each.read, come, turns)))
        for each in (first, second, third)
    ]
    await asyncio.sleep(0)
    come.set()
    await reads[0]
    reads[1].cancel()

    assert await reads[2] == third.raw
    turns.stop()
    assert reads[1].cancelled()
    assert second.copied_in == []


async def test_the_error_of_a_read_is_its_callers() -> None:
    async def broken() -> bytes:
        await asyncio.sleep(0)
        raise ConnectionError("the caller has gone")

    with pytest.raises(ConnectionError, match="the caller has gone"):
        await read_spread(broken)
