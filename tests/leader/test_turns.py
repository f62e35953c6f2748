"""The end of a leadership wakes everybody and forgets everything, a little at a time."""

from __future__ import annotations

import asyncio

from tests.leader.bench import Bench, claim, start, submit, until
from tests.leader.test_leases import lease
from tq_cluster.errors import NotLeaderError
from tq_cluster.leader.leases import LeaseTable
from tq_cluster.leader.turns import TURN, in_turns, let_go
from tq_cluster.leader.waiters import Waiters


async def test_of_many_things_only_so_many_are_seen_to_in_one_turn() -> None:
    seen: list[int] = []
    turns: list[int] = []

    in_turns(range(1_000), seen.append, most=300)
    while len(seen) < 1_000:
        turns.append(len(seen))
        await asyncio.sleep(0)

    assert turns == [300, 600, 900]
    assert seen == list(range(1_000))


async def test_what_nobody_needs_is_dropped_a_little_a_turn() -> None:
    things: dict[object, object] = dict.fromkeys(range(1_000))

    let_go(things, most=300)

    assert len(things) == 700
    await until(lambda: not things)


async def test_a_table_that_was_cleared_is_new_at_once_and_the_old_one_is_freed_in_turns() -> None:
    dropped: list[dict[object, object]] = []
    table = LeaseTable(lambda: 0.0, dropped.append)
    for token in range(100):
        table.grant(lease(token))

    table.clear()

    assert (len(table), table.entries()) == (0, 0)
    assert sorted(map(len, dropped)) == [0, 1, *[100] * 6]
    table.grant(lease(7))
    assert len(table) == 1


async def test_those_who_wait_are_woken_in_turns_and_every_one_of_them() -> None:
    waiters: Waiters[str] = Waiters()

    async def wait() -> bool:
        with waiters.join("task") as waiter:
            return await waiter.wait(30)

    waiting = [asyncio.create_task(wait()) for _ in range(3 * TURN)]
    await until(lambda: len(waiters) == 3 * TURN)
    waiters.wake_all()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert sum(task.done() for task in waiting) < 3 * TURN
    assert all(await asyncio.gather(*waiting))


async def test_thousands_of_calls_hear_that_a_reign_is_over_in_turns(bench: Bench) -> None:
    bench.log.held = True
    flying = await start(bench.leader.submit(submit("a")))
    calls = [
        asyncio.create_task(bench.leader.submit(submit("a", request_id=f"r{number}")))
        for number in range(3 * TURN)
    ]
    idle = [
        asyncio.create_task(bench.leader.claim(claim(f"w{number}"), 30, 0.0))
        for number in range(3 * TURN)
    ]
    await until(lambda: len(bench.leader._committer._waiting) >= 3 * TURN)
    bench.log.depose()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not all(call.done() for call in calls)

    heard = await asyncio.gather(flying, *calls, *idle, return_exceptions=True)
    assert sum(isinstance(each, NotLeaderError) for each in heard) >= 6 * TURN
