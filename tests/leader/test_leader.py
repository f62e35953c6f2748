"""The leader as the service meets it, over a log whose commits the test lets through."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tests.leader.fakes import FakeLog
from tq.internal.v1 import log_pb2
from tq.v1 import errors_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.clock import SystemClock
from tq_cluster.core import queries
from tq_cluster.core.batch import Draw
from tq_cluster.core.decide import decide
from tq_cluster.core.operations import (
    Claim,
    Decision,
    Operation,
    Outcome,
    Refused,
    Replied,
    Report,
    Submit,
)
from tq_cluster.core.types import TimestampMs
from tq_cluster.core.view import Workspace
from tq_cluster.errors import NotLeaderError, OutcomeUnknownError
from tq_cluster.leader.leader import Formation, Leader
from tq_cluster.raft.door import Role
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.storage.rows import CorruptRowError

Reply = TypeVar("Reply", bound=Message)


class Bench:
    """A leader with its log and state."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.log = FakeLog(self.store)
        self.fatal: list[BaseException] = []
        self.leader = Leader(
            log=self.log,
            state=self.store,
            clock=SystemClock(),
            draw=random.Random(1),
            members=3,
            formation=lambda: None,
            fatal=self.fatal.append,
        )


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.log.start()
    return made


def submit(*types: str, request_id: str = "r1", queue: str = "q") -> Submit:
    tasks = [task_pb2.TaskSpec(queue=queue, type=each) for each in types]
    request = task_service_pb2.SubmitRequest(request_id=request_id, tasks=tasks)
    return Submit(request=request, id_seed=request_id)


def claim(worker_id: str = "w", most: int = 10, request_id: str = "", lease_s: int = 30) -> Claim:
    request = worker_service_pb2.ClaimRequest(
        worker_id=worker_id,
        queues=["q"],
        max_tasks=most,
        request_id=request_id,
        lease=Duration(seconds=lease_s),
    )
    return Claim(request=request)


def told(outcome: Outcome, kind: type[Reply]) -> Reply:
    assert isinstance(outcome, Replied), outcome
    assert isinstance(outcome.reply, kind)
    return outcome.reply


def claimed(outcome: Outcome) -> list[worker_service_pb2.ClaimedTask]:
    return list(told(outcome, worker_service_pb2.ClaimResponse).tasks)


def workers(outcome: Outcome) -> list[worker_service_pb2.WorkerInfo]:
    return list(told(outcome, worker_service_pb2.ListWorkersResponse).workers)


async def until(fact: Callable[[], bool], turn_s: float = 0) -> None:
    """Let the loop turn until ``fact`` holds."""
    async with asyncio.timeout(5):
        while not fact():  # noqa: ASYNC110 - the facts are plain state, nothing signals them
            await asyncio.sleep(turn_s)


async def start(waiting: Coroutine[Any, Any, Outcome]) -> asyncio.Task[Outcome]:
    """Begin a call and let it come as far as it can."""
    task = asyncio.create_task(waiting)
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def test_a_submit_is_answered_only_after_its_entry_was_applied(bench: Bench) -> None:
    bench.log.held = True
    call = await start(bench.leader.submit(submit("resize")))
    assert not call.done()

    bench.log.let_through()
    assert len(told(await call, task_service_pb2.SubmitResponse).results) == 1


async def test_operations_that_arrive_while_an_entry_is_in_flight_share_the_next(
    bench: Bench,
) -> None:
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="r0")))
    later = [await start(bench.leader.submit(submit("a", request_id=f"r{n}"))) for n in range(1, 9)]
    assert len(bench.log.proposals) == 1

    bench.log.held = False
    bench.log.let_through()
    await asyncio.gather(first, *later)
    assert len(bench.log.proposals) == 2


async def test_an_entry_says_where_and_in_which_term_it_was_decided(bench: Bench) -> None:
    base = bench.log.decidable()
    assert base is not None
    await bench.leader.submit(submit("resize"))

    entry = log_pb2.Entry.FromString(bench.log.proposals[0])
    assert (entry.base_index, entry.decided_term) == (base.index, base.term)


async def test_a_refusal_waits_until_this_node_is_known_to_lead(bench: Bench) -> None:
    bench.log.confirms_held = True
    call = await start(bench.leader.submit(submit("no such\nname")))
    assert not call.done()

    bench.log.let_rounds_through()
    await call
    assert bench.log.proposals == []


async def test_an_empty_claim_waits_for_a_task_and_is_woken_by_its_submit(bench: Bench) -> None:
    waiting = await start(bench.leader.claim(claim(), 30, 0.0))
    assert not waiting.done()

    await bench.leader.submit(submit("resize"))
    assert [task.spec.type for task in claimed(await waiting)] == ["resize"]


async def test_many_idle_workers_all_get_work_when_much_arrives_at_once(bench: Bench) -> None:
    waiting = [await start(bench.leader.claim(claim(f"w{n}", most=1), 30, 0.0)) for n in range(20)]
    await bench.leader.submit(submit(*["resize"] * 20))

    got = await asyncio.wait_for(asyncio.gather(*waiting), 5)
    ids = {task.spec.task_id for outcome in got for task in claimed(outcome)}
    assert len(ids) == 20


async def test_a_long_poll_that_finds_nothing_answers_with_nothing(bench: Bench) -> None:
    assert claimed(await bench.leader.claim(claim(), 0.0, 0.0)) == []


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


async def test_a_call_whose_caller_had_gone_before_it_was_decided_is_dropped(bench: Bench) -> None:
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="r0")))
    gone = await start(bench.leader.submit(submit("b", request_id="r1")))
    gone.cancel()
    bench.log.held = False
    bench.log.let_through()
    await first

    listing = task_service_pb2.ListTasksRequest()
    now_ms = TimestampMs(SystemClock().wall_ms())
    found = await bench.leader.read(lambda view: queries.list_tasks(view, listing, now_ms))
    listed = told(found, task_service_pb2.ListTasksResponse)
    assert [task.spec.type for task in listed.tasks] == ["a"]


async def test_a_deposed_leader_answers_unknown_for_what_was_in_flight_and_no_for_the_rest(
    bench: Bench,
) -> None:
    bench.log.held = True
    in_flight = await start(bench.leader.submit(submit("a", request_id="r0")))
    queued = await start(bench.leader.submit(submit("a", request_id="r1")))
    polling = await start(bench.leader.claim(claim(), 30, 0.0))

    bench.log.depose()
    with pytest.raises(OutcomeUnknownError):
        await in_flight
    with pytest.raises(NotLeaderError):
        await queued
    with pytest.raises(NotLeaderError):
        await polling
    with pytest.raises(NotLeaderError):
        await bench.leader.submit(submit("a"))
    assert not bench.leader.serving()


async def test_an_operation_that_cannot_be_decided_fails_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(
        operations: Sequence[Operation], now_ms: TimestampMs, workspace: Workspace, draw: Draw
    ) -> Decision:
        for each in operations:
            if isinstance(each, Submit) and each.request.tasks[0].type == "bomb":
                raise ZeroDivisionError
        return decide(operations, now_ms, workspace, draw)

    monkeypatch.setattr("tq_cluster.leader.committer.decide", fragile)
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="r0")))
    good = await start(bench.leader.submit(submit("a", request_id="r1")))
    bomb = await start(bench.leader.submit(submit("bomb", request_id="r2")))
    also_good = await start(bench.leader.submit(submit("a", request_id="r3")))
    bench.log.held = False
    bench.log.let_through()

    await asyncio.gather(first, good, also_good)
    with pytest.raises(ZeroDivisionError):
        await bomb


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
    beating = asyncio.ensure_future(bench.leader.heartbeat(beat))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not beating.done()

    bench.log.let_through()
    await releasing
    answer = told(await beating, worker_service_pb2.HeartbeatResponse)
    assert answer.results[0].status == worker_service_pb2.HeartbeatResult.STATUS_LEASE_LOST


async def test_waiting_for_a_task_ends_when_it_is_completed(bench: Bench) -> None:
    submitted = await bench.leader.submit(submit("resize"))
    task_id = told(submitted, task_service_pb2.SubmitResponse).results[0].task.task_id
    waiting = asyncio.ensure_future(
        bench.leader.wait_task(task_service_pb2.WaitTaskRequest(task_id=task_id), 30)
    )
    (task,) = claimed(await bench.leader.claim(claim(), 0, 0.0))
    report = worker_service_pb2.ReportRequest(worker_id="w")
    report.reports.add(task_id=task_id, token=task.token).complete.result = b"done"
    await bench.leader.submit(Report(request=report))

    answer = told(await asyncio.wait_for(waiting, 5), task_service_pb2.WaitTaskResponse)
    assert (answer.finished, answer.task.result) == (True, b"done")


async def test_waiting_for_a_task_that_does_not_exist_is_refused_at_once(bench: Bench) -> None:
    answer = await bench.leader.wait_task(task_service_pb2.WaitTaskRequest(task_id="nobody"), 30)
    assert isinstance(answer, Refused)
    assert answer.reason == errors_pb2.ERROR_REASON_NOT_FOUND


async def test_a_new_leader_starts_every_running_lease_afresh(bench: Bench) -> None:
    await bench.leader.submit(submit("resize"))
    (task,) = claimed(await bench.leader.claim(claim(lease_s=5), 0, 0.0))

    successor = Leader(
        log=bench.log,
        state=bench.store,
        clock=SystemClock(),
        draw=random.Random(1),
        members=3,
        formation=lambda: None,
        fatal=bench.fatal.append,
    )
    await bench.log.start()
    await until(lambda: len(successor._leases) == 1)
    assert successor._leases.expired(10) == []
    assert task.token in successor._leases._deadline_s


def heartbeat(task: worker_service_pb2.ClaimedTask) -> worker_service_pb2.HeartbeatRequest:
    request = worker_service_pb2.HeartbeatRequest(worker_id="w")
    request.leases.add(task_id=task.spec.task_id, token=task.token)
    return request


def release(task: worker_service_pb2.ClaimedTask) -> Report:
    request = worker_service_pb2.ReportRequest(worker_id="w")
    request.reports.add(task_id=task.spec.task_id, token=task.token).release.reason = "not mine"
    return Report(request=request)


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
    beating = asyncio.ensure_future(bench.leader.heartbeat(heartbeat(task)))
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
    beating = asyncio.ensure_future(bench.leader.heartbeat(heartbeat(task)))
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


async def test_a_damaged_row_under_a_decision_ends_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> Decision:
        raise CorruptRowError("table 5")

    monkeypatch.setattr("tq_cluster.leader.committer.decide", damaged)
    with pytest.raises(CorruptRowError):
        await bench.leader.submit(submit("resize"))
    assert [type(each) for each in bench.fatal] == [CorruptRowError]


@pytest.mark.parametrize("query", ["next_due_ms", "running_leases"])
async def test_a_leader_that_cannot_look_after_leases_and_due_times_does_not_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    def damaged(*_: object) -> None:
        raise CorruptRowError("table 14")

    bench.log.depose()
    monkeypatch.setattr(f"tq_cluster.core.queries.{query}", damaged)
    bench.log.role = Role.LEADER
    await bench.log.start()
    await until(lambda: bool(bench.fatal), turn_s=0.01)
    assert isinstance(bench.fatal[0], CorruptRowError)


async def test_a_leader_that_was_stopped_begins_no_reign_any_more(bench: Bench) -> None:
    bench.leader.stop()
    await bench.log.start()
    assert not bench.leader.serving()
    assert bench.leader._ticker._task is None


async def test_the_membership_is_written_once_every_member_was_seen() -> None:
    store = MemoryStore()
    log = FakeLog(store)
    seen: list[Formation | None] = [None, Formation("c1", {"n1": "inc1"})]
    leader = Leader(
        log=log,
        state=store,
        clock=SystemClock(),
        draw=random.Random(1),
        members=1,
        formation=lambda: seen.pop(0) if len(seen) > 1 else seen[0],
        fatal=lambda error: None,
    )
    await log.start()

    await until(lambda: queries.membership(store.view()) is not None, turn_s=0.01)
    assert queries.membership(store.view()) == ("c1", {"n1": "inc1"})
    leader.stop()


# ---------------------------------------------------------------- who works

LIST_WORKERS = worker_service_pb2.ListWorkersRequest()


async def test_a_worker_is_listed_with_what_it_holds_and_what_it_reported(bench: Bench) -> None:
    await bench.leader.submit(submit("a", "b", "c"))
    tasks = claimed(await bench.leader.claim(claim("w1", most=3), 0, 0))
    report = worker_service_pb2.ReportRequest(worker_id="w1")
    report.reports.add(task_id=tasks[0].spec.task_id, token=tasks[0].token).complete.SetInParent()
    report.reports.add(task_id=tasks[1].spec.task_id, token=tasks[1].token).fail.error = "broke"
    for _ in range(2):  # what was recorded before counts once
        await bench.leader.submit(Report(request=report))

    [worker] = workers(await bench.leader.list_workers(LIST_WORKERS))

    assert (worker.worker_id, list(worker.queues)) == ("w1", ["q"])
    assert (worker.leases, worker.claimed) == (1, 3)
    assert (worker.completed, worker.failed) == (1, 1)
    assert not worker.waiting


async def test_a_worker_whose_claim_waits_is_listed_as_waiting(bench: Bench) -> None:
    waiting = asyncio.ensure_future(bench.leader.claim(claim("idle"), 60, 0))
    await asyncio.sleep(0)

    [worker] = workers(await bench.leader.list_workers(LIST_WORKERS))
    waiting.cancel()

    assert (worker.worker_id, worker.waiting) == ("idle", True)


async def test_a_new_leader_learns_who_holds_what_from_heartbeats(bench: Bench) -> None:
    await bench.leader.submit(submit("a"))
    [task] = claimed(await bench.leader.claim(claim("w1"), 0, 0))
    bench.log.depose()
    with pytest.raises(NotLeaderError):
        await bench.leader.list_workers(LIST_WORKERS)
    bench.log.role, bench.log.term = Role.LEADER, 2
    await bench.log.start()
    assert workers(await bench.leader.list_workers(LIST_WORKERS)) == []

    beat = worker_service_pb2.HeartbeatRequest(worker_id="w1")
    beat.leases.add(task_id=task.spec.task_id, token=task.token)
    await bench.leader.heartbeat(beat)
    await until(lambda: len(bench.leader._leases) == 1)

    [worker] = workers(await bench.leader.list_workers(LIST_WORKERS))
    assert (worker.worker_id, worker.leases, worker.claimed) == ("w1", 1, 0)


async def test_workers_are_listed_by_id_a_page_a_call(bench: Bench) -> None:
    for name in ("c", "a", "b"):
        await bench.leader.claim(claim(name), 0, 0)
    request = worker_service_pb2.ListWorkersRequest(page_size=2)

    first = told(await bench.leader.list_workers(request), worker_service_pb2.ListWorkersResponse)
    request.page_token = first.next_page_token
    second = told(await bench.leader.list_workers(request), worker_service_pb2.ListWorkersResponse)

    assert [each.worker_id for each in first.workers] == ["a", "b"]
    assert [each.worker_id for each in second.workers] == ["c"]
    assert (first.leader_id, second.next_page_token) == ("n1", "")
    wrong = worker_service_pb2.ListWorkersRequest(page_size=1_001)
    assert isinstance(await bench.leader.list_workers(wrong), Refused)
