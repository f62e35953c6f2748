"""Brokers that go away, and answers that are lost."""

from __future__ import annotations

from functools import partial

import pytest

from tests.worker.conftest import Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tq_common.clock import boottime_s


@pytest.mark.slow
async def test_nothing_is_lost_and_nothing_runs_twice_when_the_broker_restarts(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(concurrency=8, processes=2)
    ids = await broker.submit("tally", facts.payload, count=2000)

    for part in (300, 900, 1500):
        await broker.until(partial(done, broker, part), f"{part} completed tasks")
        await broker.stop()
        await broker.start()

    tasks = await broker.until_ended(ids)
    assert {task.state for task in tasks} == {"COMPLETED"}
    assert all(task.ends == ["completed"] for task in tasks)
    assert sorted(facts.lines()) == sorted(ids)


@pytest.mark.slow
async def test_a_result_is_delivered_after_an_outage_longer_than_the_lease(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each call is given up several times before a broker is back.
    monkeypatch.setattr("tq_worker.broker.reporter.CALL_S", 0.2)
    run = await start_worker(lease_s=1.0)
    ids = await broker.submit("until-file", facts.payload)
    await facts.until("started")
    [lease] = run.worker._held_tasks.held.values()

    await broker.stop()
    facts.path.with_name("facts.go").touch()
    await broker.until(lambda: boottime_s() > lease.until_s, "the lease's end")
    await broker.start()

    [task] = await broker.until_ended(ids)
    assert (task.state, task.result) == ("COMPLETED", b"went")


async def test_a_claim_whose_answer_was_lost_is_repeated_under_its_id(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    broker.lose_next_claim = True
    await start_worker()

    ids = await broker.submit("echo", count=3)

    tasks = await broker.until_ended(ids)
    assert broker.lose_next_claim is False
    assert [task.attempts for task in tasks] == [1, 1, 1]


async def test_a_worker_may_be_there_before_the_brokers(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await broker.stop()
    run = await start_worker()
    await broker.until(lambda: bool(run.pids()), "a worker that is ready")

    await broker.start()

    [task] = await broker.until_ended(await broker.submit("echo"))
    assert task.state == "COMPLETED"


def done(broker: FakeBroker, least: int) -> bool:
    return sum(task.state == "COMPLETED" for task in broker.tasks.values()) >= least
