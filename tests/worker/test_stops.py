"""Handlers that have to stop: timeouts, cancels, leases that end."""

from __future__ import annotations

import pytest

from tests.worker.conftest import Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tq_common.clock import boottime_s

ASYNC_AND_SYNC = pytest.mark.parametrize("task_type", ["until-cancelled", "until-cancelled-sync"])


@pytest.mark.slow
@ASYNC_AND_SYNC
async def test_a_handler_is_stopped_after_its_timeout(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, task_type: str
) -> None:
    await start_worker()

    ids = await broker.submit(task_type, facts.payload, timeout_s=0.2, max_attempts=2)

    [task] = await broker.until_ended(ids)
    assert (task.state, task.ends) == ("FAILED", ["failed", "failed"])
    assert task.error == "timed out after 0.2 s"
    assert facts.lines().count("stopped: the task's timeout has passed") == 2


@pytest.mark.slow
async def test_a_handler_that_ignores_its_timeout_is_killed_and_its_neighbour_released(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.broker.held_tasks.STOP_GRACE_S", 0.2)
    run = await start_worker()
    [neighbour] = await broker.submit("until-file", facts.payload)
    await facts.until("started")
    [before] = run.pids()

    ids = await broker.submit("stubborn", facts.payload, timeout_s=0.2, max_attempts=1)

    [task] = await broker.until_ended(ids)
    assert task.error.startswith("timed out after 0.2 s; the handler did not stop: ")
    await broker.until(lambda: bool(broker.tasks[neighbour].ends), "the neighbour's end")
    assert broker.tasks[neighbour].ends == ["released"]
    assert f"the handler of task {ids[0]} did not stop" in broker.tasks[neighbour].error
    facts.path.with_name("facts.go").touch()
    [finished] = await broker.until_ended([neighbour])
    assert (finished.state, finished.attempts) == ("COMPLETED", 1)
    assert run.pids() != [before]


@ASYNC_AND_SYNC
async def test_a_cancelled_task_s_handler_is_stopped(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, task_type: str
) -> None:
    await start_worker(lease_s=1.0)
    ids = await broker.submit(task_type, facts.payload)
    await facts.until("started")

    broker.tasks[ids[0]].cancel_requested = True

    [task] = await broker.until_ended(ids)
    assert (task.state, task.ends) == ("CANCELLED", ["cancelled"])
    await facts.until("stopped: the task was cancelled")


@pytest.mark.slow
async def test_an_async_handler_that_swallows_the_cancel_is_killed(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.broker.held_tasks.STOP_GRACE_S", 0.2)
    await start_worker(lease_s=1.0)
    ids = await broker.submit("stubborn-async", facts.payload)
    await facts.until("started")

    broker.tasks[ids[0]].cancel_requested = True

    [task] = await broker.until_ended(ids)
    assert (task.state, task.ends) == ("CANCELLED", ["cancelled"])
    assert facts.lines() == ["started", "ignored"]


async def test_a_handler_that_finished_before_it_noticed_the_cancel_is_completed(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(lease_s=1.0)
    ids = await broker.submit("finish-anyway", facts.payload)
    await facts.until("started")

    broker.tasks[ids[0]].cancel_requested = True

    [task] = await broker.until_ended(ids)
    assert (task.state, task.result) == ("COMPLETED", b"finished")


@ASYNC_AND_SYNC
async def test_losing_the_lease_stops_the_handler_and_reports_nothing(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, task_type: str
) -> None:
    await start_worker(lease_s=1.0)
    [task_id] = await broker.submit(task_type, facts.payload)
    await facts.until("started")
    stale = broker.tasks[task_id].token

    # The next claimant finds it in another queue, so that is not this worker.
    broker.tasks[task_id].spec.queue = "elsewhere"
    await broker.expire(task_id)

    await facts.until("stopped: the lease was lost")
    [echo] = await broker.submit("echo")
    await broker.until_ended([echo])
    assert stale not in [report.token for report in broker.reports]


@pytest.mark.slow
async def test_a_stubborn_handler_is_killed_when_its_lease_is_lost(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker(lease_s=1.0)
    [task_id] = await broker.submit("stubborn", facts.payload)
    await facts.until("started")
    [before] = run.pids()
    broker.tasks[task_id].spec.queue = "elsewhere"

    await broker.expire(task_id)

    ids = await broker.submit("pid")
    await broker.until(lambda: run.pids() not in ([before], []), "another process")
    [task] = await broker.until_ended(ids)
    assert task.state == "COMPLETED"


@pytest.mark.slow
async def test_a_handler_has_stopped_before_its_lease_ends_when_no_broker_answers(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(lease_s=2.0)
    await broker.submit("until-cancelled", facts.payload)
    await facts.until("started")

    broker.deaf = True

    await facts.until("stopped: the lease is nearly over and could not be renewed")
    assert "stopped in time" in facts.lines()


@pytest.mark.slow
async def test_a_stubborn_handler_is_dead_before_its_lease_ends_when_no_broker_answers(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker(lease_s=4.0)
    [task_id] = await broker.submit("stubborn-ticking", facts.payload)
    await facts.until("started")

    broker.deaf = True

    await broker.until(lambda: "released" in broker.tasks[task_id].ends, "its release")
    # Each tick says how much of the lease, as the handler knew it, was left.
    ticks = [float(line.removeprefix("left ")) for line in facts.lines() if "left" in line]
    assert min(ticks) > 0
    assert run.task.done() is False


@pytest.mark.slow
async def test_a_handler_that_holds_the_interpreter_is_dead_before_its_lease_ends(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    # A thirtieth of it is left for the kill and for its report.
    run = await start_worker(lease_s=9.0)
    [task_id] = await broker.submit("hog-forever", facts.payload)
    await facts.until("started")
    [lease] = run.worker._held_tasks.held.values()

    broker.deaf = True

    await broker.until(lambda: "released" in broker.tasks[task_id].ends, "its release")
    assert boottime_s() < lease.until_s


@pytest.mark.slow
async def test_leases_are_renewed_while_a_handler_holds_the_interpreter(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(lease_s=1.0)

    ids = await broker.submit("hog", facts.payload)

    await facts.until("started")
    before = len(broker.heartbeats)
    [task] = await broker.until_ended(ids)
    # It held the interpreter for three lengths of its lease.
    assert len(broker.heartbeats) - before >= 6
    assert (task.state, task.ends) == ("COMPLETED", ["completed"])
