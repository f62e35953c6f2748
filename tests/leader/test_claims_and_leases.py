"""Claims, leases and heartbeats as the service meets them on the leader."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.leader.bench import (
    Bench,
    claim,
    claimed,
    heartbeat,
    release,
    start,
    submit,
    told,
    until,
)
from tests.patience import PATIENCE_S
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.clock import SystemClock
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.housekeeping import backfill
from tq_cluster.core.model.operations import (
    ANONYMOUS,
    Claim,
    ConfigureQueue,
    FormCluster,
    Operation,
    Report,
    Submit,
)
from tq_cluster.errors import NotLeaderError, OutcomeUnknownError
from tq_cluster.leader.leader import Leader
from tq_cluster.leader.line import Waiting
from tq_cluster.reading import Reading


async def test_an_empty_claim_waits_for_a_task_and_is_woken_by_its_submit(bench: Bench) -> None:
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))
    assert not waiting.done()

    await bench.leader.submit(submit("resize"))
    assert [task.spec.type for task in claimed(await waiting)] == ["resize"]


async def test_a_claim_is_not_decided_before_a_task_is_ready(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(bench, monkeypatch)
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))
    assert looks.count == 0
    await bench.leader.submit(submit("resize", "resize"))
    assert len(claimed(await waiting)) == 2

    await bench.leader.submit(submit("resize", request_id="r2"))
    assert len(claimed(await bench.leader.claim(claim(), 30, 0.0))) == 1
    assert looks.count == 2, "one was met as it waited, one found a task"


async def test_a_claim_of_a_paused_queue_waits_until_it_is_resumed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure(*, paused: bool) -> ConfigureQueue:
        settings = queue_service_pb2.QueueSettings(paused=paused)
        request = queue_service_pb2.ConfigureQueueRequest(queue="q", settings=settings)
        return ConfigureQueue(request=request)

    await bench.leader.submit(submit("resize"))
    await bench.leader.submit(configure(paused=True))
    looks = Looks(bench, monkeypatch)
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))
    assert looks.count == 0

    await bench.leader.submit(configure(paused=False))
    assert len(claimed(await waiting)) == 1


async def test_a_claim_repeated_without_its_age_gets_its_tasks_before_its_wait_ends(
    bench: Bench,
) -> None:
    await bench.leader.submit(submit("resize"))
    [first] = claimed(await bench.leader.claim(claim(request_id="c1"), 30, 0.0))

    [again] = claimed(await bench.leader.claim(claim(request_id="c1"), 0.05, 0.0))

    assert (again.spec.task_id, again.token) == (first.spec.task_id, first.token)


async def test_many_idle_workers_all_get_work_when_much_arrives_at_once(bench: Bench) -> None:
    waiting = [await start(bench.leader.claim(claim(f"w{n}", most=1), 30, 0.0)) for n in range(20)]
    await bench.leader.submit(submit(*["resize"] * 20))

    got = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
    ids = {task.spec.task_id for outcome in got for task in claimed(outcome)}
    assert len(ids) == 20


async def test_a_long_poll_that_finds_nothing_answers_with_nothing(bench: Bench) -> None:
    assert claimed(await bench.leader.claim(claim(), 0.0, 0.0)) == []


async def test_a_claim_that_finds_nothing_is_confirmed_once_it_is_answered(bench: Bench) -> None:
    confirms = bench.log.confirms
    waiting = await start(bench.leader.claim(claim(), 0.05, 0.0))
    assert bench.log.confirms == confirms

    assert claimed(await waiting) == []
    assert bench.log.confirms == confirms + 1


async def test_a_node_that_was_deposed_as_it_was_confirmed_does_not_say_that_there_is_nothing(
    bench: Bench,
) -> None:
    bench.log.confirms_held = True
    waiting = await start(bench.leader.claim(claim(), 0.05, 0.0))
    await until(lambda: bool(bench.log._rounds), turn_s=0.01)
    bench.log.depose()
    with pytest.raises(NotLeaderError):
        await waiting


async def test_tasks_granted_to_a_caller_who_had_gone_are_given_back(bench: Bench) -> None:
    await bench.leader.submit(submit("resize"))
    bench.log.held = True
    gone = await start(bench.leader.claim(claim("gone"), 30, 0.0))
    assert len(bench.log.proposals) == 2
    gone.cancel()
    await until(gone.done)

    bench.log.held = False
    bench.log.let_through()
    await until(lambda: len(bench.log.proposals) >= 3 and bench.log.decidable() is not None)
    assert len(claimed(await bench.leader.claim(claim("next"), 5, 0.0))) == 1


async def test_a_silent_worker_loses_its_lease_and_reports_too_late(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim("silent", lease_s=1), 0, 0.0))

    # The worker was silent for a minute: the leader's clock says so.
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)
    await until(lambda: len(bench.leader._leases) == 0, turn_s=0.01)

    report = worker_service_pb2.ReportRequest(worker_id="silent")
    report.reports.add(task_id=task.spec.task_id, token=task.token).complete.result = b"late"
    outcome = await bench.leader.submit(Report(request=report))
    answer = told(outcome, worker_service_pb2.ReportResponse)
    assert answer.results[0].status == worker_service_pb2.ReportResult.STATUS_LEASE_LOST


async def test_a_heartbeat_is_not_answered_while_an_entry_that_ends_its_lease_is_in_flight(
    bench: Bench,
) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim(), 0, 0.0))
    bench.log.held = True
    report = worker_service_pb2.ReportRequest(worker_id="w")
    report.reports.add(task_id=task.spec.task_id, token=task.token).release.reason = "given back"
    releasing = await start(bench.leader.submit(Report(request=report)))

    beat = worker_service_pb2.HeartbeatRequest(worker_id="w")
    beat.leases.add(task_id=task.spec.task_id, token=task.token)
    beating = asyncio.ensure_future(bench.leader.heartbeat(beat, ANONYMOUS))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not beating.done()

    bench.log.let_through()
    await releasing
    answer = told(await beating, worker_service_pb2.HeartbeatResponse)
    assert answer.results[0].status == worker_service_pb2.HeartbeatResult.STATUS_LEASE_LOST


async def test_a_new_leader_starts_every_running_lease_afresh(bench: Bench) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim(lease_s=5), 0, 0.0))

    successor = Leader(
        node_id="n1",
        log=bench.log,
        state=bench.store,
        reading=Reading(),
        clock=SystemClock(),
        draw=random.Random(1),
        members=3,
        formation=lambda: None,
        fatal=bench.fatal.append,
    )
    await bench.log.start()
    await until(lambda: len(successor._leases) == 1)
    assert successor._leases.expired(10) == []
    assert task.token in successor._leases


async def test_a_repeated_claim_that_is_answered_again_renews_its_leases(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.leader.submit(submit("resize"))
    first = claimed(await bench.leader.claim(claim(request_id="c1"), 0, 0.0))
    started_s = bench.leader._loop.time()
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: started_s + 20)
    again = claimed(await bench.leader.claim(claim(request_id="c1"), 0, 0.0))
    assert [task.token for task in again] == [task.token for task in first]

    # Its worker counts the 30 s from the repetition.
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: started_s + 40)
    assert bench.leader._leases.expired(10) == []


async def test_no_entry_ends_a_lease_between_a_claims_replay_and_its_answer(bench: Bench) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim(request_id="c1"), 0, 0.0))
    proposed = len(bench.log.proposals)

    bench.log.confirms_held = True
    replay = await start(bench.leader.claim(claim(request_id="c1"), 0, 0.0))
    ending = await start(bench.leader.submit(release(task)))
    assert len(bench.log.proposals) == proposed

    bench.log.let_rounds_through()
    assert [each.token for each in claimed(await replay)] == [task.token]
    await ending
    assert len(bench.log.proposals) == proposed + 1


async def test_a_heartbeat_says_nothing_of_a_lease_that_an_entry_of_unknown_outcome_may_have_ended(
    bench: Bench,
) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim(), 0, 0.0))
    bench.log.held = True
    ending = await start(bench.leader.submit(release(task)))
    beating = asyncio.ensure_future(bench.leader.heartbeat(heartbeat(task), ANONYMOUS))
    for _ in range(20):
        await asyncio.sleep(0)

    bench.log.depose()
    with pytest.raises(OutcomeUnknownError):
        await ending
    with pytest.raises(NotLeaderError):
        await beating


async def test_a_heartbeat_is_not_answered_by_a_node_that_was_deposed_as_it_was_confirmed(
    bench: Bench,
) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim(), 0, 0.0))
    bench.log.confirms_held = True
    beating = asyncio.ensure_future(bench.leader.heartbeat(heartbeat(task), ANONYMOUS))
    await asyncio.sleep(0)
    bench.log.let_rounds_through()
    bench.log.depose()

    with pytest.raises(NotLeaderError):
        await beating


async def test_a_claim_cut_off_in_the_moment_it_is_granted_is_given_back(bench: Bench) -> None:
    await bench.leader.submit(submit("resize"))
    bench.log.held = True
    gone = await start(bench.leader.claim(claim("gone"), 30, 0.0))
    bench.log.let_through()
    # After the callback that grants, before the claim's own coroutine goes on.
    bench.leader._loop.call_soon(gone.cancel)
    bench.log.held = False
    with pytest.raises(asyncio.CancelledError):
        await gone
    (task,) = claimed(await bench.leader.claim(claim("next"), 5, 0.0))
    assert task.attempt == 1


async def test_a_claim_that_is_repeated_while_the_first_is_undecided_is_decided_after_it(
    bench: Bench,
) -> None:
    await bench.leader.submit(submit("resize"))
    bench.log.held = True
    other = await start(bench.leader.submit(submit("other", request_id="r2", queue="other")))
    first = await start(bench.leader.claim(claim(request_id="c1"), 0, 0.0))
    repeated = await start(bench.leader.claim(claim(request_id="c1"), 0, 0.0))
    bench.log.let_through()
    await other
    await until(lambda: len(bench.log.proposals) == 3)
    first.cancel()
    await until(first.done)
    bench.log.held = False
    bench.log.let_through()

    answer = told(await repeated, worker_service_pb2.ClaimResponse)
    assert len(answer.tasks) == 0, "it was told of a lease that is given back"
    assert len(answer.lost_task_ids) == 1


async def test_a_claim_that_may_not_wait_looks_once_however_often_it_is_woken(
    bench: Bench,
) -> None:
    bench.log.confirms_held = True
    hasty = await start(bench.leader.claim(claim(), 0, 0.0))
    bench.leader._claimants.wake_all()
    confirms = bench.log.confirms
    bench.log.confirms_held = False
    bench.log.let_rounds_through()

    assert claimed(await hasty) == []
    assert bench.log.confirms == confirms


def claim_of(worker_id: str, *types: str, but: tuple[str, ...] = (), most: int = 1) -> Claim:
    request = worker_service_pb2.ClaimRequest(
        worker_id=worker_id, queues=["q"], max_tasks=most, types=types, except_types=but
    )
    return Claim(request=request)


class Looks:
    """How many claims were decided."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        wait_for = bench.leader._committer._wait_for

        def counting(operation: Operation, *, own: bool = False) -> Waiting:
            self.count += isinstance(operation, Claim)
            return wait_for(operation, own=own)

        monkeypatch.setattr(bench.leader._committer, "_wait_for", counting)


async def test_a_thousand_workers_idle_for_one_type_are_not_asked_about_tasks_of_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(bench, monkeypatch)
    idle = [
        asyncio.create_task(bench.leader.claim(claim_of(f"w{n}", "limited"), 30, 0.0))
        for n in range(500)
    ]
    idle += [
        asyncio.create_task(bench.leader.claim(claim_of(f"x{n}", but=("video", "mail")), 30, 0.0))
        for n in range(500)
    ]
    await until(lambda: len(bench.leader._claimants) == 1_000)

    for number in range(50):
        await bench.leader.submit(submit("video", "mail", request_id=f"r{number}"))
        outcome = await bench.leader.claim(claim_of("busy", most=2), 30, 0.0)
        assert len(claimed(outcome)) == 2
    assert looks.count == 50

    await bench.leader.submit(submit("limited", "other", request_id="last"))
    await until(lambda: sum(each.done() for each in idle) == 2)
    # Each claimant that was woken had its task; no other claimant looked.
    assert looks.count == 50 + 2
    for each in idle:
        each.cancel()
    await asyncio.gather(*idle, return_exceptions=True)
    assert len(bench.leader._claimants) == 0


async def test_tasks_that_one_claim_has_no_room_for_wake_the_next(bench: Bench) -> None:
    first = await start(bench.leader.claim(claim_of("w1", most=10), 30, 0.0))
    second = await start(bench.leader.claim(claim_of("w2", most=10), 30, 0.0))
    large = [task_pb2.TaskSpec(queue="q", type="t", payload=bytes(5 << 20)) for _ in range(3)]
    await asyncio.gather(
        *(
            bench.leader.submit(
                Submit(request=task_service_pb2.SubmitRequest(tasks=[each]), id_seed=f"r{number}")
            )
            for number, each in enumerate(large)
        )
    )
    got = [len(claimed(await first)), len(claimed(await second))]
    assert got == [2, 1]


async def test_a_paused_queue_wakes_nobody_and_when_it_goes_on_only_as_many_as_it_has_tasks_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FormCluster(
        cluster_id="c", members={"n1": "i"}, cluster_version=CLUSTER_VERSION, wall_ms=0
    )
    await bench.leader.submit(form)
    # One that a claim has to pass over: from then on it is known which types are ready.
    other = task_service_pb2.SubmitRequest(tasks=[task_pb2.TaskSpec(queue="q", type="w")])
    await bench.leader.submit(Submit(request=other, id_seed="other"))
    for wanted in ("x", "w"):
        await bench.leader.claim(claim_of("first", wanted), 0.0, 0.0)
    await until(lambda: not backfill.is_under_way(bench.store.view()))
    looks = Looks(bench, monkeypatch)
    request = queue_service_pb2.ConfigureQueueRequest(queue="q")
    request.settings.paused = True
    await bench.leader.submit(ConfigureQueue(request=request))
    idle = [await start(bench.leader.claim(claim_of(f"w{n}", "x"), 30, 0.0)) for n in range(5)]
    idle += [await start(bench.leader.claim(claim_of(f"v{n}", "y"), 30, 0.0)) for n in range(5)]
    await bench.leader.submit(submit("y", "y", "z"))
    assert looks.count == 0

    request.settings.paused = False
    await bench.leader.submit(ConfigureQueue(request=request))
    await until(lambda: sum(each.done() for each in idle[5:]) == 2)
    assert not any(each.done() for each in idle[:5])
    # The leader does not know the type of each of the three tasks: the third look is in vain.
    assert looks.count <= 3 + 1
    for each in idle:
        each.cancel()
    await asyncio.gather(*idle, return_exceptions=True)


async def test_a_claim_that_takes_the_more_urgent_task_leaves_the_other_to_one_who_waits(
    bench: Bench,
) -> None:
    """The first that came is woken for both, and takes one."""
    either = await start(bench.leader.claim(claim("w1", most=1), 30, 0.0))
    request = worker_service_pb2.ClaimRequest(
        worker_id="w2", queues=["q"], types=["letter"], max_tasks=1
    )
    letters = await start(bench.leader.claim(Claim(request=request), 30, 0.0))

    arriving = submit("letter", "parcel")
    arriving.request.tasks[1].priority = 9
    await bench.leader.submit(arriving)

    got = await asyncio.wait_for(asyncio.gather(either, letters), PATIENCE_S)
    assert [task.spec.type for each in got for task in claimed(each)] == ["parcel", "letter"]
