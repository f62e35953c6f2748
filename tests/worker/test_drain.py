"""Workers that leave."""

from __future__ import annotations

import pytest

from tests.worker.conftest import Facts, StartWorker, a_slow_task_in_a_backlog_of_fast_ones
from tests.worker.fake_broker import FakeBroker
from tq_worker.worker import Leaving


@pytest.mark.slow
async def test_a_worker_that_leaves_finishes_what_runs_and_releases_what_waits(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.pool.pool.PATIENCE_S", 1000.0)
    run = await start_worker(concurrency=1)
    running, *waiting = await a_slow_task_in_a_backlog_of_fast_ones(broker, facts)

    run.worker.leave()
    await broker.until(
        lambda: all(broker.tasks[each].ends == ["released"] for each in waiting), "releases"
    )
    assert not run.task.done()
    facts.path.with_name("facts.go").touch()

    assert await run.task == 0
    assert broker.tasks[running].ends == ["completed"]
    assert [broker.tasks[each].state for each in waiting] == ["PENDING"] * 5
    assert broker.claimants == 0


@pytest.mark.slow
@pytest.mark.parametrize("task_type", ["until-cancelled", "until-cancelled-sync"])
async def test_what_does_not_finish_within_the_drain_timeout_is_stopped_and_released(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, task_type: str
) -> None:
    run = await start_worker(drain_timeout_s=0.1)
    [task_id] = await broker.submit(task_type, facts.payload)
    await facts.until("started")

    assert await run.leave() == 0

    assert broker.tasks[task_id].ends == ["released"]
    assert broker.tasks[task_id].error == "the worker shuts down"
    assert broker.tasks[task_id].attempts == 0
    assert "stopped: the worker shuts down" in facts.lines()


@pytest.mark.slow
async def test_a_worker_told_twice_to_leave_does_not_wait_even_for_stubborn_handlers(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker()
    [task_id] = await broker.submit("stubborn", facts.payload)
    await facts.until("started")

    run.worker.leave()
    assert await run.leave() == 0

    assert broker.tasks[task_id].ends == ["released"]


@pytest.mark.slow
async def test_tasks_held_behind_a_handler_that_takes_its_time_are_given_back_for_others_to_run(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(concurrency=1)
    _, *behind = await a_slow_task_in_a_backlog_of_fast_ones(broker, facts)

    await start_worker(concurrency=1)

    for task in await broker.until_ended(behind):
        assert (task.worker_id, task.ends) == ("w2", ["released", "completed"])


@pytest.mark.slow
async def test_a_worker_that_leaves_claims_no_more(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker(concurrency=2)
    await broker.submit("until-file", facts.payload)
    await facts.until("started")
    await broker.until(lambda: broker.claimants == 1, "a claim that waits")

    run.worker.leave()
    await broker.until(lambda: broker.claimants == 0, "the claim's end")
    [late] = await broker.submit("echo")
    facts.path.with_name("facts.go").touch()

    assert await run.task == 0
    assert broker.tasks[late].state == "PENDING"
    # The last claim is repeated for a moment: what that brings is given back.
    assert broker.tasks[late].ends in ([], ["released"])


@pytest.mark.slow
async def test_what_the_last_claim_was_granted_is_given_back(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    broker.hold_next_grant = True
    run = await start_worker()
    ids = await broker.submit("echo", count=3)
    await broker.until_running(ids)

    assert await run.leave() == 0

    assert [broker.tasks[each].ends for each in ids] == [["released"]] * 3


async def test_a_worker_may_leave_while_its_handlers_are_still_loading(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    run = await start_worker()

    assert await run.leave(Leaving.AT_ONCE) == 0

    assert run.pids() == []


@pytest.mark.slow
async def test_a_worker_that_cannot_deliver_its_last_reports_says_so(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.worker.LAST_REPORTS_S", 0.3)
    run = await start_worker()
    await broker.submit("until-file", facts.payload)
    await facts.until("started")

    await broker.stop()
    facts.path.with_name("facts.go").touch()

    assert await run.leave() == 1
