"""Heartbeats of many leases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.leader.bench import Bench, claim, claimed, release, start, submit, told
from tq.v1 import errors_pb2, worker_service_pb2
from tq_cluster.core.model.operations import ANONYMOUS, Refused
from tq_cluster.core.reads import queries
from tq_cluster.errors import NotLeaderError
from tq_cluster.leader.heartbeats import SLICE

Result = worker_service_pb2.HeartbeatResult


async def held(bench: Bench, count: int) -> list[worker_service_pb2.ClaimedTask]:
    """Submit and claim ``count`` tasks."""
    tasks: list[worker_service_pb2.ClaimedTask] = []
    while len(tasks) < count:
        batch = min(1_000, count - len(tasks))
        await bench.leader.submit(submit(*["resize"] * batch, request_id=f"r{len(tasks)}"))
        tasks += claimed(await bench.leader.claim(claim(most=batch), 0, 0.0))
    return tasks


def listing(
    tasks: Sequence[worker_service_pb2.ClaimedTask],
) -> worker_service_pb2.HeartbeatRequest:
    leases = [
        worker_service_pb2.HeldLease(task_id=task.spec.task_id, token=task.token) for task in tasks
    ]
    return worker_service_pb2.HeartbeatRequest(worker_id="w", leases=leases)


async def beaten(bench: Bench, request: worker_service_pb2.HeartbeatRequest) -> list[int]:
    reply = told(
        await bench.leader.heartbeat(request, ANONYMOUS), worker_service_pb2.HeartbeatResponse
    )
    assert [each.task_id for each in reply.results] == [each.task_id for each in request.leases]
    return [each.status for each in reply.results]


async def test_other_calls_go_on_while_a_long_heartbeat_is_looked_through(bench: Bench) -> None:
    tasks = await held(bench, 5 * SLICE)

    beating = asyncio.create_task(beaten(bench, listing(tasks)))
    turns = 0
    while not beating.done():
        await asyncio.sleep(0)
        turns += 1
    assert await beating == [Result.STATUS_RENEWED] * len(tasks)
    assert turns >= 5


async def test_however_many_heartbeats_are_looked_through_a_turn_is_as_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await held(bench, 3 * SLICE)
    looked_up: list[int] = []
    held_lease = queries.held_lease

    def counted(*arguments: object) -> bool:
        looked_up[-1] += 1
        return held_lease(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(queries, "held_lease", counted)
    beating = [asyncio.create_task(beaten(bench, listing(tasks))) for _ in range(10)]
    while not all(task.done() for task in beating):
        looked_up.append(0)
        await asyncio.sleep(0)

    assert sum(looked_up) == 10 * len(tasks)
    assert max(looked_up) <= 2 * SLICE
    for task in beating:
        assert await task == [Result.STATUS_RENEWED] * len(tasks)


async def test_a_lease_that_ends_while_the_others_are_looked_at_is_told_to_be_lost(
    bench: Bench,
) -> None:
    tasks = await held(bench, 20 * SLICE)
    beating = asyncio.create_task(beaten(bench, listing(tasks)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    # Its slice was looked at by now.
    await bench.leader.submit(release(tasks[0]))
    assert not beating.done()
    statuses = await beating
    assert statuses[0] == Result.STATUS_LEASE_LOST
    assert statuses[1:] == [Result.STATUS_RENEWED] * (len(tasks) - 1)


async def test_leases_that_an_entry_in_flight_ends_are_answered_after_it_and_the_others_renewed(
    bench: Bench,
) -> None:
    tasks = await held(bench, 2 * SLICE)
    bench.log.held = True
    releasing = await start(bench.leader.submit(release(tasks[7])))
    beating = await start(bench.leader.heartbeat(listing(tasks), ANONYMOUS))
    assert not beating.done()

    bench.log.let_through()
    await releasing
    reply = told(await beating, worker_service_pb2.HeartbeatResponse)
    lost = [place for place, each in enumerate(reply.results) if each.status != 1]
    assert lost == [7]
    assert reply.results[7].status == Result.STATUS_LEASE_LOST
    assert tasks[6].token in bench.leader._leases


async def test_a_heartbeat_whose_leases_end_one_after_the_other_is_answered_all_the_same(
    bench: Bench,
) -> None:
    tasks = await held(bench, 20)
    bench.log.held = True
    reports = [await start(bench.leader.submit(release(task))) for task in tasks[:1]]
    beating = await start(bench.leader.heartbeat(listing(tasks), ANONYMOUS))

    # Each entry that lands makes room for the next, which ends another of its leases.
    reports += [await start(bench.leader.submit(release(tasks[1])))]
    bench.log.let_through()
    for _ in range(20):
        await asyncio.sleep(0)
    assert beating.done()
    bench.log.let_through()
    await asyncio.gather(*reports)


async def test_a_long_heartbeat_of_a_leader_that_was_deposed_meanwhile_is_not_answered(
    bench: Bench,
) -> None:
    tasks = await held(bench, 3 * SLICE)
    beating = asyncio.create_task(bench.leader.heartbeat(listing(tasks), ANONYMOUS))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.log.depose()
    bench.log.elect()

    with pytest.raises(NotLeaderError):
        await beating


async def test_a_lease_that_is_listed_twice_is_answered_twice(bench: Bench) -> None:
    (task,) = await held(bench, 1)

    assert await beaten(bench, listing([task, task])) == [Result.STATUS_RENEWED] * 2


async def test_an_id_longer_than_any_task_has_is_not_repeated_whole(bench: Bench) -> None:
    giant = worker_service_pb2.HeldLease(task_id="x" * (3 << 20), token=1)
    request = worker_service_pb2.HeartbeatRequest(worker_id="w", leases=[giant])

    reply = told(
        await bench.leader.heartbeat(request, ANONYMOUS), worker_service_pb2.HeartbeatResponse
    )

    (result,) = reply.results
    assert (result.status, result.task_id) == (Result.STATUS_LEASE_LOST, "x" * 200)


async def test_too_many_leases_are_refused_before_any_is_looked_at(bench: Bench) -> None:
    request = worker_service_pb2.HeartbeatRequest(
        worker_id="w", leases=[worker_service_pb2.HeldLease(token=1)] * 10_001
    )
    confirms = bench.log.confirms
    outcome = await bench.leader.heartbeat(request, ANONYMOUS)

    assert isinstance(outcome, Refused)
    assert outcome.reason == errors_pb2.ERROR_REASON_INVALID_ARGUMENT
    assert outcome.field == "leases"
    assert bench.log.confirms == confirms


async def test_a_claim_that_is_refused_leaves_nothing_in_the_leaders_memory(bench: Bench) -> None:
    operation = claim("w", most=10)
    operation.request.queues.extend(["q" * 10_000])

    outcome = await bench.leader.claim(operation, 30, 0.0)

    assert isinstance(outcome, Refused)
    assert len(bench.leader._claimants) == 0
    assert len(bench.leader._workers) == 0
