"""The leader as the service meets it, over a log whose commits the test lets through."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from tests.core.lone_queue import LoneQueue
from tests.leader.bench import Bench, claim, claimed, release, start, submit, told, until
from tests.leader.fakes import FakeLog
from tests.patience import PATIENCE_S
from tests.scopes import scope_of
from tq.internal.v1 import log_pb2
from tq.v1 import errors_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.clock import SystemClock
from tq_cluster.core.calls.submit import decide_submit
from tq_cluster.core.features import REGISTRY
from tq_cluster.core.kernel import request_ids
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.model.operations import (
    ANONYMOUS,
    Cancel,
    Decision,
    Outcome,
    Refused,
    Replied,
    Report,
    Steps,
    Submit,
)
from tq_cluster.core.reads import queries
from tq_cluster.core.rows.tables import CHUNK_BYTES
from tq_cluster.errors import NotLeaderError, OutcomeUnknownError
from tq_cluster.leader.leader import DIGEST_BYTES_MAX, Formation, Leader
from tq_cluster.raft.log_api import Role
from tq_cluster.reading import Reading
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.storage.rows import CorruptRowError


class TooLargeError(Exception):
    """The caller has no room for the answer."""


def anything(_size: int) -> None:
    """Take an answer of any size."""


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


async def test_a_call_whose_caller_had_gone_before_it_was_decided_is_dropped(bench: Bench) -> None:
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="r0")))
    gone = await start(bench.leader.submit(submit("b", request_id="r1")))
    gone.cancel()
    bench.log.held = False
    bench.log.let_through()
    await first

    listing = task_service_pb2.ListTasksRequest()
    found = await bench.leader.read(lambda view: queries.list_tasks(scope_of(view), listing))
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
    def fragile(space: Space, operation: Submit) -> Steps | Outcome:
        if operation.request.tasks[0].type == "bomb":
            raise ZeroDivisionError
        return decide_submit(space, operation)

    monkeypatch.setitem(REGISTRY.decisions, Submit, fragile)
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


async def test_waiting_for_a_task_ends_when_it_is_completed(bench: Bench) -> None:
    submitted = await bench.leader.submit(submit("resize"))
    task_id = told(submitted, task_service_pb2.SubmitResponse).results[0].task.task_id
    waiting = asyncio.ensure_future(
        bench.leader.wait_task(
            task_service_pb2.WaitTaskRequest(task_id=task_id), ANONYMOUS, 30, anything
        )
    )
    (task,) = claimed(await bench.leader.claim(claim(), 0, 0.0))
    report = worker_service_pb2.ReportRequest(worker_id="w")
    report.reports.add(task_id=task_id, token=task.token).complete.result = b"done"
    await bench.leader.submit(Report(request=report))

    answer = told(await asyncio.wait_for(waiting, PATIENCE_S), task_service_pb2.WaitTaskResponse)
    assert (answer.finished, answer.task.result) == (True, b"done")


async def test_an_entry_that_ends_a_wait_is_all_the_confirmation_that_its_answer_needs(
    bench: Bench,
) -> None:
    submitted = await bench.leader.submit(submit("resize"))
    task_id = told(submitted, task_service_pb2.SubmitResponse).results[0].task.task_id
    (task,) = claimed(await bench.leader.claim(claim(), 0, 0.0))
    confirms = bench.log.confirms
    wait = task_service_pb2.WaitTaskRequest(task_id=task_id)
    waiting = await start(bench.leader.wait_task(wait, ANONYMOUS, 30, anything))
    report = worker_service_pb2.ReportRequest(worker_id="w")
    report.reports.add(task_id=task_id, token=task.token).complete.result = b"done"
    await bench.leader.submit(Report(request=report))

    answer = told(await asyncio.wait_for(waiting, PATIENCE_S), task_service_pb2.WaitTaskResponse)
    assert answer.finished
    assert bench.log.confirms == confirms


@pytest.mark.parametrize(("name", "wait_s"), [("", 30), ("", 0), ("nobody", 30)])
async def test_what_a_wait_finds_in_the_state_is_told_once_it_is_confirmed(
    bench: Bench, name: str, wait_s: float
) -> None:
    """This node may have been deposed without knowing: its state is too old then."""
    submitted = await bench.leader.submit(submit("resize"))
    task_id = told(submitted, task_service_pb2.SubmitResponse).results[0].task.task_id
    if wait_s:
        cancel = task_service_pb2.CancelTaskRequest(task_id=task_id)
        await bench.leader.submit(Cancel(request=cancel))
    bench.log.confirms_held = True
    wait = task_service_pb2.WaitTaskRequest(task_id=name or task_id)
    waiting = await start(bench.leader.wait_task(wait, ANONYMOUS, wait_s, anything))
    assert not waiting.done()

    bench.log.depose()
    with pytest.raises(NotLeaderError):
        await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_caller_who_cannot_take_the_answer_hears_it_before_the_answer_is_made(
    bench: Bench,
) -> None:
    large = submit("resize")
    large.request.tasks[0].payload = bytes(10 * CHUNK_BYTES)
    submitted = await bench.leader.submit(large)
    task_id = told(submitted, task_service_pb2.SubmitResponse).results[0].task.task_id
    told_of: list[int] = []

    def too_much(size: int) -> None:
        told_of.append(size)
        raise TooLargeError

    with pytest.raises(TooLargeError):
        await bench.leader.wait_task(
            task_service_pb2.WaitTaskRequest(task_id=task_id), ANONYMOUS, 0, too_much
        )
    whole = task_service_pb2.WaitTaskRequest(task_id=task_id)
    brief = task_service_pb2.WaitTaskRequest(task_id=task_id, omit_payload=True)
    answer = told(
        await bench.leader.wait_task(whole, ANONYMOUS, 0, told_of.append),
        task_service_pb2.WaitTaskResponse,
    )
    await bench.leader.wait_task(brief, ANONYMOUS, 0, too_much)

    assert told_of == [10 * CHUNK_BYTES] * 2
    assert len(answer.task.spec.payload) == 10 * CHUNK_BYTES


async def test_waiting_for_a_task_that_does_not_exist_is_refused_at_once(bench: Bench) -> None:
    answer = await bench.leader.wait_task(
        task_service_pb2.WaitTaskRequest(task_id="nobody"), ANONYMOUS, 30, anything
    )
    assert isinstance(answer, Refused)
    assert answer.reason == errors_pb2.ERROR_REASON_NOT_FOUND


async def test_a_damaged_row_under_a_decision_ends_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> Decision:
        raise CorruptRowError("table 5")

    monkeypatch.setattr("tq_cluster.leader.committer.deciding", damaged)
    with pytest.raises(CorruptRowError):
        await bench.leader.submit(submit("resize"))
    assert [type(each) for each in bench.fatal] == [CorruptRowError]


@pytest.mark.parametrize("query", ["first_due", "running_leases"])
async def test_a_leader_that_cannot_look_after_leases_and_due_times_does_not_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    def damaged(*_: object) -> None:
        raise CorruptRowError("table 14")

    bench.log.depose()
    monkeypatch.setattr(f"tq_cluster.core.reads.queries.{query}", damaged)
    bench.log.role = Role.LEADER
    await bench.log.start()
    await until(lambda: bool(bench.fatal), turn_s=0.01)
    assert isinstance(bench.fatal[0], CorruptRowError)


async def test_a_leader_that_was_stopped_begins_no_reign_any_more(bench: Bench) -> None:
    bench.leader.stop()
    await bench.log.start()
    assert not bench.leader.serving()
    assert bench.leader._ticker._wake is None


async def test_the_membership_is_written_once_every_member_was_seen() -> None:
    store = MemoryStore()
    log = FakeLog(store)
    seen: list[Formation | None] = [None, Formation("c1", {"n1": "inc1"})]
    leader = Leader(
        node_id="n1",
        log=log,
        state=store,
        reading=Reading(),
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


async def test_while_the_disks_are_nearly_full_no_task_is_created_and_reports_are_taken(
    bench: Bench,
) -> None:
    await bench.leader.submit(submit("a"))
    [task] = claimed(await bench.leader.claim(claim(), 0.0, 0.0))
    bench.disk_pressure = True

    refused = await bench.leader.submit(submit("b", request_id="r2"))
    assert isinstance(refused, Refused)
    assert refused.reason == errors_pb2.ERROR_REASON_DISK_PRESSURE
    assert isinstance(await bench.leader.submit(release(task)), Replied)

    bench.disk_pressure = False
    assert isinstance(await bench.leader.submit(submit("b", request_id="r2")), Replied)


async def test_a_large_request_is_hashed_beside_the_loop_and_a_repetition_is_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed_by: list[int] = []
    digest_of = request_ids.digest_of

    def watched(request: request_ids.Request) -> bytes:
        hashed_by.append(threading.get_ident())
        return digest_of(request)

    monkeypatch.setattr(request_ids, "digest_of", watched)
    large = submit("a")
    large.request.tasks[0].payload = bytes(DIGEST_BYTES_MAX)

    first = told(await bench.leader.submit(large), task_service_pb2.SubmitResponse)
    again = told(await bench.leader.submit(large), task_service_pb2.SubmitResponse)
    await bench.leader.submit(submit("small", request_id="r2"))

    assert again.results[0].task.task_id == first.results[0].task.task_id
    assert len(bench.log.proposals) == 2
    here = threading.get_ident()
    assert [each == here for each in hashed_by] == [False, False, True]
    # The next leader may hash the request at another moment.
    decided = LoneQueue(store=bench.store)
    decided.now_ms = queries.log_time(bench.store.view())
    replayed = told(decided.outcome(large), task_service_pb2.SubmitResponse)
    assert replayed.results[0].task.task_id == first.results[0].task.task_id
