"""What waits for an entry, and what is taken for the next one."""

from __future__ import annotations

import asyncio

from tests.leader.bench import claim, submit
from tq_cluster.core.model.operations import MakeDue
from tq_cluster.leader.line import BATCH_ITEMS_MAX, Line, Waiting


def waiting(items: int, *, first: bool = False, own: bool = False) -> Waiting:
    operation = MakeDue() if own else submit("a")
    outcome = asyncio.get_running_loop().create_future()
    return Waiting(operation, outcome, items, 0, own=own, first=first)


async def test_a_large_call_that_was_put_off_goes_beside_our_own_work_that_was() -> None:
    """Else it waits until none was, and all the small ones behind it do."""
    line = Line()
    own = waiting(50, first=True, own=True)
    put_off, large = waiting(BATCH_ITEMS_MAX + 1, first=True), waiting(BATCH_ITEMS_MAX + 1)
    small = waiting(1)
    for each in (large, small):
        line.add(each)
    line.put_back([own, put_off])

    batch: list[Waiting] = []
    line.take_first(batch)
    assert batch == [own, put_off]
    line.take(batch)
    assert batch == [own, put_off, small]


async def test_what_is_given_back_goes_before_what_was_put_off_meanwhile() -> None:
    """A repeated claim must not be told that it holds what is then taken from it."""
    line = Line()
    release, repetition = waiting(1, first=True), waiting(1, first=True)
    release.gives_back = True
    line.put_back([release])
    line.put_back([repetition])

    batch: list[Waiting] = []
    line.take_first(batch)
    assert batch == [release, repetition]


async def test_own_work_that_waits_is_known_of() -> None:
    line = Line()
    own = waiting(50, first=True, own=True)
    line.add(waiting(1))
    line.put_back([waiting(1, first=True), own])
    assert list(line.own()) == [own]


async def test_a_claim_and_its_repetition_are_never_of_one_batch_and_hold_up_nobody() -> None:
    line = Line()
    repeated, others = [waiting(1) for _ in range(3)], [waiting(1) for _ in range(3)]
    for place in range(3):
        repeated[place].operation = claim(request_id="again")
        line.add(repeated[place])
        line.add(others[place])

    batches: list[list[Waiting]] = []
    while len(line):
        batches.append([])
        line.take_first(batches[-1])
        line.take(batches[-1])
    assert batches == [[repeated[0], *others], repeated[1:2], repeated[2:]]
