"""The list of workers that a leader gives."""

from __future__ import annotations

import asyncio

import pytest

from tests.leader.bench import (
    Bench,
    claim,
    claimed,
    submit,
    told,
    until,
    workers,
)
from tq.v1 import worker_service_pb2
from tq_cluster.core.model.operations import ANONYMOUS, Refused, Report
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.core.reads.steps import STEP_COST
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft.log_api import Role

LIST_WORKERS = worker_service_pb2.ListWorkersRequest()
LIST_WORKERS_MOST = worker_service_pb2.ListWorkersRequest(page_size=1_000)


async def test_a_worker_is_listed_with_what_it_holds_and_what_it_reported(bench: Bench) -> None:
    await bench.leader.submit(submit("a", "b", "c"))
    tasks = claimed(await bench.leader.claim(claim("w1", most=3), 0, 0))
    report = worker_service_pb2.ReportRequest(worker_id="w1")
    report.reports.add(task_id=tasks[0].spec.task_id, token=tasks[0].token).complete.SetInParent()
    report.reports.add(task_id=tasks[1].spec.task_id, token=tasks[1].token).fail.error = "broke"
    for _ in range(2):  # what was recorded before counts once
        await bench.leader.submit(Report(request=report))

    [worker] = workers(await bench.leader.list_workers(LIST_WORKERS, ANONYMOUS))

    assert (worker.worker_id, list(worker.queues)) == ("w1", ["q"])
    assert (worker.leases, worker.claimed) == (1, 3)
    assert (worker.completed, worker.failed) == (1, 1)
    assert not worker.waiting


async def test_a_worker_whose_claim_waits_is_listed_as_waiting(bench: Bench) -> None:
    waiting = asyncio.ensure_future(bench.leader.claim(claim("idle"), 60, 0))
    await asyncio.sleep(0)

    [worker] = workers(await bench.leader.list_workers(LIST_WORKERS, ANONYMOUS))
    waiting.cancel()

    assert (worker.worker_id, worker.waiting) == ("idle", True)


async def test_a_new_leader_learns_who_holds_what_from_heartbeats(bench: Bench) -> None:
    await bench.leader.submit(submit("a"))
    [task] = claimed(await bench.leader.claim(claim("w1"), 0, 0))
    bench.log.depose()
    with pytest.raises(NotLeaderError):
        await bench.leader.list_workers(LIST_WORKERS, ANONYMOUS)
    bench.log.role, bench.log.term = Role.LEADER, 2
    await bench.log.start()
    assert workers(await bench.leader.list_workers(LIST_WORKERS, ANONYMOUS)) == []

    beat = worker_service_pb2.HeartbeatRequest(worker_id="w1")
    beat.leases.add(task_id=task.spec.task_id, token=task.token)
    await bench.leader.heartbeat(beat, ANONYMOUS)
    await until(lambda: len(bench.leader._leases) == 1)

    [worker] = workers(await bench.leader.list_workers(LIST_WORKERS, ANONYMOUS))
    assert (worker.worker_id, worker.leases, worker.claimed) == ("w1", 1, 0)


async def test_a_long_list_of_workers_leaves_the_loop_to_others(bench: Bench) -> None:
    names = [f"{n:02}".ljust(128, "q") for n in range(64)]
    for n in range(200):
        request = worker_service_pb2.ClaimRequest(worker_id=f"w{n:03}", queues=names)
        with bench.leader._workers.claiming(DEFAULT_NAMESPACE, request):
            pass
    listing = asyncio.create_task(bench.leader.list_workers(LIST_WORKERS_MOST, ANONYMOUS))

    turns = 0
    while not listing.done():
        await asyncio.sleep(0)
        turns += 1

    assert [each.worker_id for each in workers(await listing)] == [f"w{n:03}" for n in range(200)]
    # Each is some 8 KiB, and so much more than a row.
    assert turns >= 200 * 8 // STEP_COST


async def test_workers_are_listed_by_id_a_page_a_call(bench: Bench) -> None:
    for name in ("c", "a", "b"):
        await bench.leader.claim(claim(name), 0, 0)
    request = worker_service_pb2.ListWorkersRequest(page_size=2)

    first = told(
        await bench.leader.list_workers(request, ANONYMOUS), worker_service_pb2.ListWorkersResponse
    )
    request.page_token = first.next_page_token
    second = told(
        await bench.leader.list_workers(request, ANONYMOUS), worker_service_pb2.ListWorkersResponse
    )

    assert [each.worker_id for each in first.workers] == ["a", "b"]
    assert [each.worker_id for each in second.workers] == ["c"]
    assert (first.leader_id, second.next_page_token) == ("n1", "")
    wrong = worker_service_pb2.ListWorkersRequest(page_size=1_001)
    assert isinstance(await bench.leader.list_workers(wrong, ANONYMOUS), Refused)
