"""Those who wait for a task to finish."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine

import pytest

from tests.patience import PATIENCE_S
from tests.telling import RecordProperty, tell
from tq.v1 import worker_service_pb2
from tq_cluster.core.model.operations import Claim
from tq_cluster.leader.claimants import Claimants
from tq_cluster.leader.waiters import Waiters

CALLS = 500


async def test_what_happens_between_the_look_and_the_wait_is_not_missed() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join("mail") as waiter, waiters.join("video") as other:
        waiters.wake_all("mail")
        assert await waiter.wait(0.001)
        assert not await waiter.wait(0.001)
        assert not other.woken


def test_nothing_is_left_behind_by_those_who_stop_waiting() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join("mail"), waiters.join("mail"):
        assert len(waiters) == 2
    assert len(waiters) == 0
    waiters.wake_all("mail")


async def test_a_waiter_that_times_out_or_is_cancelled_can_wait_again() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join("mail") as waiter:
        assert not await waiter.wait(0.001)
        waiting = asyncio.create_task(waiter.wait(PATIENCE_S))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waiting = asyncio.create_task(waiter.wait(PATIENCE_S))
        await asyncio.sleep(0)
        waiters.wake_all("mail")
        waiters.wake_all("mail")
        assert await waiting
        assert not waiter.woken


async def wait_for_a_task(waiters: Waiters[int], _claimants: Claimants, number: int) -> None:
    with waiters.join(number) as waiter:
        await waiter.wait(PATIENCE_S)


async def wait_with_a_claim(_waiters: Waiters[int], claimants: Claimants, number: int) -> None:
    request = worker_service_pb2.ClaimRequest(queues=[f"q{number % 2}"], worker_id="w", max_tasks=1)
    with claimants.join(Claim(request=request)) as claimant:
        await claimants.wait(claimant, PATIENCE_S)


@pytest.mark.parametrize(
    ("wait", "bytes_max"), [(wait_for_a_task, 2_800), (wait_with_a_claim, 3_300)]
)
async def test_a_call_that_waits_holds_little_memory(
    wait: Callable[[Waiters[int], Claimants, int], Coroutine[None, None, None]],
    bytes_max: int,
    record_property: RecordProperty,
) -> None:
    waiters: Waiters[int] = Waiters()
    claimants = Claimants()

    async def start(numbers: range) -> list[asyncio.Task[None]]:
        calls = [asyncio.create_task(wait(waiters, claimants, number)) for number in numbers]
        await asyncio.sleep(0)
        return calls

    first = await start(range(10))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        calls = await start(range(10, 10 + CALLS))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for call in (*first, *calls):
        call.cancel()
    await asyncio.gather(*first, *calls, return_exceptions=True)

    each = (after - before) / CALLS
    tell(record_property, f"{wait.__name__}: {each:,.0f} bytes")
    assert each < bytes_max
