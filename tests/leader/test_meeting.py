"""A task that meets a waiting claim is submitted and leased in one entry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.leader.bench import Bench, claim, claimed, release, start, submit, told, until
from tests.patience import PATIENCE_S
from tq.v1 import worker_service_pb2
from tq_cluster.clock import SystemClock
from tq_cluster.core.features import REGISTRY
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.queue import read_queue
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Claim, Outcome, Ready, Steps
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.core.rows import tables
from tq_cluster.errors import NotLeaderError, OutcomeUnknownError
from tq_cluster.leader import committer
from tq_cluster.leader.claimants import Claimant


def claim_of(*types: str, worker_id: str = "w", most: int = 1) -> Claim:
    request = worker_service_pb2.ClaimRequest(
        worker_id=worker_id, queues=["q"], max_tasks=most, types=types
    )
    return Claim(request=request)


async def test_a_task_and_the_claim_that_waits_for_it_are_one_entry(bench: Bench) -> None:
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))

    await bench.leader.submit(submit("resize"))

    assert [task.spec.type for task in claimed(await waiting)] == ["resize"]
    assert len(bench.log.proposals) == 1


async def test_a_released_task_and_the_claim_that_waits_for_it_are_one_entry(bench: Bench) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim("first"), 0, 0.0))
    waiting = await start(bench.leader.claim(claim("second"), 30, 0.0))
    before = len(bench.log.proposals)

    await bench.leader.submit(release(task))

    assert [each.spec.task_id for each in claimed(await waiting)] == [task.spec.task_id]
    assert len(bench.log.proposals) == before + 1


async def test_claims_are_met_in_the_order_in_which_they_came_and_no_more_than_there_are_tasks(
    bench: Bench,
) -> None:
    waiting = [await start(bench.leader.claim(claim(f"w{n}", most=1), 30, 0.0)) for n in range(5)]
    other = await start(bench.leader.claim(claim_of("parcel"), 30, 0.0))

    await bench.leader.submit(submit("letter", "letter", "letter"))
    await asyncio.wait_for(asyncio.gather(*waiting[:3]), PATIENCE_S)
    assert claimed(await bench.leader.claim(claim("nothing"), 0, 0.0)) == []

    assert [each.done() for each in (*waiting, other)] == [True] * 3 + [False] * 3
    assert len(bench.log.proposals) == 1
    for each in (*waiting, other):
        each.cancel()


@pytest.mark.parametrize("calls", [1, 1_000], ids=["in one call", "each alone"])
async def test_a_thousand_claims_that_wait_and_a_thousand_tasks_find_each_other(
    bench: Bench, calls: int
) -> None:
    """They are more than an entry holds: some are met, some are put off, some are woken."""
    waiting = [
        asyncio.create_task(bench.leader.claim(claim(f"w{n}", most=1), 60, 0.0))
        for n in range(1_000)
    ]
    await until(lambda: len(bench.leader._claimants) == 1_000 and bench.log.decidable() is not None)

    types = ["resize"] * (1_000 // calls)
    await asyncio.gather(
        *(bench.leader.submit(submit(*types, request_id=f"r{n}")) for n in range(calls))
    )

    got = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
    assert len({task.spec.task_id for each in got for task in claimed(each)}) == 1_000


async def test_a_lone_claim_does_not_make_the_next_calls_wait(bench: Bench) -> None:
    """Claims that were met are no callers for whom a batch would wait."""
    waiting = [await start(bench.leader.claim(claim(f"w{n}", most=1), 30, 0.0)) for n in range(3)]
    await bench.leader.submit(submit("a", "b", "c"))
    await asyncio.gather(*waiting)

    assert bench.leader._committer._last_batch == 1


async def test_what_a_claim_was_met_with_is_released_if_its_caller_has_gone(bench: Bench) -> None:
    gone = await start(bench.leader.claim(claim("gone"), 30, 0.0))
    bench.log.held = True
    submitting = await start(bench.leader.submit(submit("resize")))
    gone.cancel()
    await until(gone.done)

    bench.log.held = False
    bench.log.let_through()
    await submitting
    (task,) = claimed(await bench.leader.claim(claim("next"), 5, 0.0))
    assert task.attempt == 1
    assert len(bench.log.proposals) == 3, "granted with the submit, released, claimed"


async def test_a_claim_cut_off_in_the_turn_in_which_it_is_met_is_released(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = await start(bench.leader.claim(claim("gone"), 30, 0.0))
    claims_for = bench.leader._committer._claims_for

    def meeting(ready: Sequence[Ready]) -> Sequence[Claimant]:
        bench.leader._loop.call_soon(gone.cancel)
        return claims_for(ready)

    monkeypatch.setattr(bench.leader._committer, "_claims_for", meeting)
    await bench.leader.submit(submit("resize"))
    monkeypatch.undo()

    with pytest.raises(asyncio.CancelledError):
        await gone
    (task,) = claimed(await bench.leader.claim(claim("next"), 5, 0.0))
    assert task.attempt == 1


async def test_a_claim_and_its_repetition_are_not_met_in_one_entry(bench: Bench) -> None:
    first = await start(bench.leader.claim(claim(most=1, request_id="c1"), 30, 0.0))
    repeated = await start(bench.leader.claim(claim(most=1, request_id="c1"), 30, 0.0))
    bench.log.held = True
    submitting = await start(bench.leader.submit(submit("a", "b")))
    first.cancel()
    await until(first.done)
    bench.log.held = False
    bench.log.let_through()
    await submitting

    answer = told(await repeated, worker_service_pb2.ClaimResponse)
    assert len(answer.tasks) == 0, "its answer names a lease that is released"
    assert len(answer.lost_task_ids) == 1


async def test_a_task_is_announced_although_a_claim_that_was_woken_before_takes_another(
    bench: Bench,
) -> None:
    """The first is woken for the first task; in one batch a second task comes and it takes one."""
    first, second = [await start(bench.leader.claim(claim(w, most=1), 30, 0.0)) for w in "ab"]
    no_claims = bench.leader._committer._claims_for
    bench.leader._committer._claims_for = lambda _: ()
    bench.log.held = True
    submitting = await start(bench.leader.submit(submit("resize")))
    again = await start(bench.leader.submit(submit("resize", request_id="r2")))
    bench.log.held = False
    bench.log.let_through()
    await asyncio.gather(submitting, again)
    bench.leader._committer._claims_for = no_claims

    got = await asyncio.wait_for(asyncio.gather(first, second), PATIENCE_S)
    assert len({task.spec.task_id for each in got for task in claimed(each)}) == 2


async def test_a_claim_that_cannot_be_decided_holds_up_neither_due_tasks_nor_submits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decide = REGISTRY.decisions[Claim]

    def bomb(space: Space, operation: Claim) -> Steps | Outcome:
        queue = space.find_queue("q")
        if queue is not None and queue.counts[states.PENDING]:
            raise ZeroDivisionError
        return decide(space, operation)

    monkeypatch.setitem(REGISTRY.decisions, Claim, bomb)
    due = submit("resize")
    due.request.tasks[0].run_at.FromMilliseconds(SystemClock().wall_ms() + 100)
    await bench.leader.submit(due)
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(waiting, PATIENCE_S)
    queue = read_queue(bench.store.view(), tables.prefix_of(DEFAULT_NAMESPACE), 1)
    assert queue.counts[states.PENDING] == 1
    assert "operation cannot be decided" in caplog.text
    other = await start(bench.leader.claim(claim("another"), 30, 0.0))
    await asyncio.wait_for(bench.leader.submit(submit("b", request_id="r2")), PATIENCE_S)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(other, PATIENCE_S)


async def test_a_claim_that_was_met_in_vain_goes_on_waiting(bench: Bench) -> None:
    """A task of another type with the same digest comes."""
    assert type_digest("plumless") == type_digest("buckeroo")
    waiting = await start(bench.leader.claim(claim_of("buckeroo"), 30, 0.0))

    await bench.leader.submit(submit("plumless"))
    assert not waiting.done()
    await bench.leader.submit(submit("buckeroo", request_id="r2"))

    assert [task.spec.type for task in claimed(await waiting)] == ["buckeroo"]


async def test_a_claim_whose_entry_may_be_applied_under_another_leader_hears_that(
    bench: Bench,
) -> None:
    """It must not be sent again as if it had not been decided."""
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))
    bench.log.held = True
    submitting = asyncio.create_task(bench.leader.submit(submit("resize")))
    await until(lambda: len(bench.log.proposals) == 1)

    bench.log.depose()

    for call in (waiting, submitting):
        with pytest.raises(OutcomeUnknownError):
            await asyncio.wait_for(call, PATIENCE_S)


@pytest.mark.parametrize("elected", [False, True])
async def test_a_leader_that_is_deposed_while_it_meets_a_claim_tells_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, elected: bool
) -> None:
    monkeypatch.setattr(committer, "SLICE_S", 0.0)
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))
    submitting = asyncio.create_task(bench.leader.submit(submit("resize")))
    await until(lambda: len(bench.leader._claimants) == 0)

    bench.log.depose()
    if elected:
        bench.log.elect()

    for call in (waiting, submitting):
        with pytest.raises(NotLeaderError):
            await asyncio.wait_for(call, PATIENCE_S)
    assert bench.log.proposals == []
