"""Answers that are ready at once, and the turns of the loop in which they leave."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.service.fakes import cluster_of, stubs_of, until
from tq.v1 import task_service_pb2
from tq_cluster.core.model.operations import Replied
from tq_cluster.service.routing import ANSWERS_A_TURN
from tq_cluster.service.turn_limit import TurnLimit


class Turns:
    """Says which turn of the loop it is."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        self._handle.cancel()

    def _turn(self) -> None:
        self.number += 1
        self._handle = self._loop.call_soon(self._turn)


async def test_a_few_answers_leave_in_a_turn_in_the_order_in_which_they_were_ready() -> None:
    leaving, turns = TurnLimit(ANSWERS_A_TURN), Turns()
    gone: list[tuple[int, int]] = []

    async def leave(number: int) -> None:
        await leaving.turn()
        gone.append((number, turns.number))

    await asyncio.gather(*(leave(number) for number in range(10 * ANSWERS_A_TURN)))
    turns.stop()

    assert [number for number, _ in gone] == list(range(10 * ANSWERS_A_TURN))
    # What is let go in one turn leaves in the next, beside those that find room in that.
    assert max(Counter(turn for _, turn in gone).values()) <= 2 * ANSWERS_A_TURN


async def test_an_answer_that_is_alone_leaves_at_once_also_after_many() -> None:
    leaving, turns = TurnLimit(ANSWERS_A_TURN), Turns()
    await asyncio.gather(*(leaving.turn() for _ in range(3 * ANSWERS_A_TURN)))
    for _ in range(3):
        await asyncio.sleep(0)

    before = turns.number
    await leaving.turn()
    turns.stop()

    assert turns.number == before


async def test_an_answer_whose_caller_has_gone_takes_no_place() -> None:
    leaving, turns = TurnLimit(ANSWERS_A_TURN), Turns()
    for _ in range(ANSWERS_A_TURN):
        await leaving.turn()
    gone = [asyncio.create_task(leaving.turn()) for _ in range(3 * ANSWERS_A_TURN)]
    last = asyncio.create_task(leaving.turn())
    await asyncio.sleep(0)  # all of them wait
    for call in gone:
        call.cancel()
    before = turns.number

    await last

    turns.stop()
    assert turns.number <= before + 3


async def test_callers_that_one_entry_answers_are_answered_over_several_turns() -> None:
    committed = asyncio.Event()

    async def answer() -> Replied:
        await committed.wait()
        return Replied(reply=task_service_pb2.SubmitResponse())

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        node = cluster["n1"]
        cluster.elect("n1", 1)
        node.leader.answer = answer
        leaving = node.service._router.leaving
        taken: list[int] = []
        turn = leaving.turn

        async def counted() -> None:
            taken.append(1)
            await turn()

        leaving.turn = counted  # type: ignore[method-assign]  # counts on its way
        request = task_service_pb2.SubmitRequest()
        calls = [asyncio.ensure_future(stubs.tasks.Submit(request)) for _ in range(8)]
        await until(lambda: len(node.leader.asked) == len(calls), "all are asked")
        assert taken == []
        committed.set()
        await asyncio.gather(*calls)

    assert len(taken) == len(calls)
