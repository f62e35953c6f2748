"""A batch that is decided over several turns of the loop, and what may happen between them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace

import pytest

from tests.circles import left_for_the_collector
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
from tests.scopes import scope_of
from tq.internal.v1 import log_pb2
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.features import REGISTRY
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.budget import ENTRY_BUDGET
from tq_cluster.core.model.operations import (
    ANONYMOUS,
    Claim,
    DeleteDeadLetters,
    ExpireLeases,
    HashState,
    MakeDue,
    Operation,
    Outcome,
    PurgeQueue,
    Redrive,
    Refused,
    Report,
    Steps,
    Submit,
)
from tq_cluster.core.model.types import FencingToken
from tq_cluster.core.reads import queries
from tq_cluster.core.rows import tables
from tq_cluster.errors import NotLeaderError
from tq_cluster.leader import committer, line

Renewed = worker_service_pb2.HeartbeatResult


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loop turn after every step."""
    monkeypatch.setattr(committer, "SLICE_S", 0.0)


def many(count: int, request_id: str = "many") -> Submit:
    return submit(*["t"] * count, request_id=request_id)


def completed(
    tasks: list[worker_service_pb2.ClaimedTask], children: int = 0
) -> worker_service_pb2.ReportRequest:
    request = worker_service_pb2.ReportRequest(worker_id="w")
    for task in tasks:
        completion = request.reports.add(task_id=task.spec.task_id, token=task.token).complete
        completion.submit.extend([task_pb2.TaskSpec(queue="children", type="t")] * children)
    return request


async def several_turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def held(bench: Bench, count: int) -> list[worker_service_pb2.ClaimedTask]:
    """Tasks that are leased to a worker."""
    tasks = []
    for start_ in range(0, count, 1_000):
        size = min(1_000, count - start_)
        await bench.leader.submit(many(size, f"held {start_}"))
        tasks += claimed(await bench.leader.claim(claim(most=size), 0, 0.0))
    return tasks


def entry(bench: Bench, number: int) -> log_pb2.Entry:
    return log_pb2.Entry.FromString(bench.log.proposals[number])


@pytest.mark.usefixtures("slowly")
async def test_the_loop_turns_while_a_large_call_is_decided(bench: Bench) -> None:
    call = await start(bench.leader.submit(many(300)))
    assert bench.log.proposals == []

    # Others are served meanwhile: this read confirms and is answered.
    missing = await bench.leader.read(
        lambda view: queries.get_task(
            scope_of(view), task_service_pb2.GetTaskRequest(task_id="none")
        )
    )
    assert isinstance(missing, Refused)
    assert bench.log.proposals == []

    reply = told(await call, task_service_pb2.SubmitResponse)
    assert len(reply.results) == 300
    assert len(bench.log.proposals) == 1


@pytest.mark.usefixtures("slowly")
async def test_calls_that_come_while_a_batch_is_decided_go_into_the_next(bench: Bench) -> None:
    first = await start(bench.leader.submit(many(300)))
    later = [await start(bench.leader.submit(submit("a", request_id=f"r{n}"))) for n in range(3)]

    await asyncio.gather(first, *later)

    assert len(bench.log.proposals) == 2


@pytest.mark.usefixtures("slowly")
async def test_a_leader_that_is_deposed_while_it_decides_proposes_nothing(bench: Bench) -> None:
    call = await start(bench.leader.submit(many(300)))

    bench.log.depose()

    with pytest.raises(NotLeaderError):
        await call
    await several_turns()
    assert bench.log.proposals == []


@pytest.mark.usefixtures("slowly")
async def test_what_was_decided_over_an_older_log_is_thrown_away(bench: Bench) -> None:
    """As by a node that lost the lead and won it back: callers of before hear that it was lost."""
    lost = await start(bench.leader.submit(many(300, "lost")))
    bench.log.depose()
    bench.log.elect()
    again = await start(bench.leader.submit(many(300, "again")))

    with pytest.raises(NotLeaderError):
        await lost
    assert len(told(await again, task_service_pb2.SubmitResponse).results) == 300
    [proposed] = bench.log.proposals
    assert log_pb2.Entry.FromString(proposed).base_index == bench.store.applied.index - 1


@pytest.mark.usefixtures("slowly")
async def test_a_batch_waits_out_a_hand_over_that_comes_to_nothing(bench: Bench) -> None:
    call = await start(bench.leader.submit(many(300)))

    bench.log.handing_over = True
    await several_turns()
    assert not call.done()
    bench.log.handing_over = False
    bench.log.tell_decidable()

    assert len(told(await call, task_service_pb2.SubmitResponse).results) == 300
    assert len(bench.log.proposals) == 1


@pytest.mark.usefixtures("slowly")
async def test_a_heartbeat_waits_for_a_report_that_is_being_decided(bench: Bench) -> None:
    tasks = await held(bench, 100)
    call = await start(bench.leader.submit(Report(request=completed(tasks))))
    proposed = len(bench.log.proposals)

    beat = await start(bench.leader.heartbeat(heartbeat(tasks[99]), ANONYMOUS))
    assert len(bench.log.proposals) == proposed, "it is still being decided"
    assert not beat.done()

    await call
    (result,) = told(await beat, worker_service_pb2.HeartbeatResponse).results
    assert result.status == Renewed.STATUS_LEASE_LOST


@pytest.mark.usefixtures("slowly")
async def test_a_heartbeat_for_another_lease_does_not_wait(bench: Bench) -> None:
    tasks = await held(bench, 101)
    call = await start(bench.leader.submit(Report(request=completed(tasks[:100]))))
    proposed = len(bench.log.proposals)

    reply = told(
        await bench.leader.heartbeat(heartbeat(tasks[100]), ANONYMOUS),
        worker_service_pb2.HeartbeatResponse,
    )

    assert len(bench.log.proposals) == proposed, "the report is still being decided"
    assert reply.results[0].status == Renewed.STATUS_RENEWED
    await call


@pytest.mark.usefixtures("slowly")
async def test_a_lease_that_is_about_to_be_expired_is_renewed_by_nobody(bench: Bench) -> None:
    """Its expiry is not decided yet, but it will be: its worker must not hear "renewed"."""
    tasks = await held(bench, 40)
    leases, _ = queries.running_leases(scope_of(bench.store.view()), b"", 100)
    expiry = await start(bench.leader.submit(ExpireLeases(leases=leases)))
    assert not expiry.done()

    beat = await start(bench.leader.heartbeat(heartbeat(tasks[39]), ANONYMOUS))

    assert not beat.done()
    await expiry
    (result,) = told(await beat, worker_service_pb2.HeartbeatResponse).results
    assert result.status == Renewed.STATUS_LEASE_LOST


@pytest.mark.usefixtures("slowly")
async def test_a_claim_that_is_cut_off_while_it_is_decided_gives_its_tasks_back(
    bench: Bench,
) -> None:
    await bench.leader.submit(many(50))
    call = await start(bench.leader.claim(claim(most=50), 0, 0.0))
    call.cancel()

    await until(lambda: given_back(bench), turn_s=0.001)


def given_back(bench: Bench) -> bool:
    """Whether the tasks were leased, and are no longer."""
    leases, _ = queries.running_leases(scope_of(bench.store.view()), b"", 100)
    return len(bench.log.proposals) >= 3 and not leases


# ---------------------------------------------------------------- how much one entry holds


async def test_the_children_of_completions_are_weighed(bench: Bench) -> None:
    """Ten reports, each of them as much as an entry may be, are ten entries."""
    tasks = await held(bench, 100)
    before = len(bench.log.proposals)
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="first")))
    reports = [
        await start(bench.leader.submit(Report(request=completed(tasks[n : n + 10], 100))))
        for n in range(0, 100, 10)
    ]

    bench.log.held = False
    bench.log.let_through()
    await asyncio.gather(first, *reports)

    rows = [
        sum(len(table.put_keys) + len(table.deleted_keys) for table in entry(bench, place).tables)
        for place in range(before, len(bench.log.proposals))
    ]
    assert len(rows) == 11
    assert max(rows) < 10_000


async def test_what_is_done_to_a_thousand_tasks_is_an_entry(bench: Bench) -> None:
    for n in range(3):
        await bench.leader.submit(many(1_000, f"fill {n}"))
    request = queue_service_pb2.PurgeQueueRequest(queue="q", max_tasks=1_000)
    before = len(bench.log.proposals)
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="first")))
    purges = [await start(bench.leader.submit(PurgeQueue(request=request))) for _ in range(3)]

    bench.log.held = False
    bench.log.let_through()
    await asyncio.gather(first, *purges)

    assert len(bench.log.proposals) == before + 4


@pytest.mark.parametrize(
    ("operation", "items"),
    [
        (Redrive(request=queue_service_pb2.RedriveRequest(queue="q")), 1_000),
        (Redrive(request=queue_service_pb2.RedriveRequest(queue="q", max_tasks=7)), 7),
        (Redrive(request=queue_service_pb2.RedriveRequest(task_ids=["a"] * 30)), 30),
        (DeleteDeadLetters(request=queue_service_pb2.DeleteDeadLettersRequest(queue="q")), 1_000),
        (PurgeQueue(request=queue_service_pb2.PurgeQueueRequest(queue="q")), 400),
        (MakeDue(tasks_max=200), 200),
        (Claim(request=worker_service_pb2.ClaimRequest(max_tasks=12)), 12),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_operation_weighs_what_it_may_come_to(operation: Operation, items: int) -> None:
    assert line.weigh(operation) == (1 + items, 0)


@pytest.mark.parametrize("large", [PurgeQueue, Submit])
async def test_a_small_call_does_not_wait_behind_many_large_ones(
    bench: Bench, large: type[Operation]
) -> None:
    await bench.leader.submit(many(1_000, "fill"))
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="first")))
    purge = queue_service_pb2.PurgeQueueRequest(queue="q", max_tasks=1_000)
    storm = [
        await start(
            bench.leader.submit(
                PurgeQueue(request=purge) if large is PurgeQueue else many(1_000, f"r{n}")
            )
        )
        for n in range(10)
    ]
    small = await start(bench.leader.submit(submit("small", request_id="small")))
    before = len(bench.log.proposals)

    bench.log.held = False
    bench.log.let_through()
    await small

    assert len(bench.log.proposals) <= before + 2
    await asyncio.gather(first, *storm)
    assert len(bench.log.proposals) >= before + (1 if large is PurgeQueue else 10)


async def test_large_calls_do_not_wait_for_ever_behind_small_ones(bench: Bench) -> None:
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="first")))
    small = [await start(bench.leader.submit(many(100, f"small {n}"))) for n in range(50)]
    large = await start(bench.leader.submit(many(1_000, "large")))
    before = len(bench.log.proposals)

    bench.log.held = False
    bench.log.let_through()
    await large

    assert len(bench.log.proposals) <= before + 2
    await asyncio.gather(first, *small)


async def test_what_an_entry_had_no_room_for_goes_first_into_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate was wrong: the entry is full before everything gathered for it was reached."""
    monkeypatch.setattr(committer, "weigh", lambda _: (1, 0))
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="first")))
    large = [await start(bench.leader.submit(many(900, f"r{n}"))) for n in range(5)]
    poll = await start(bench.leader.claim(claim(most=1), 0, 0.0))

    bench.log.let_through()
    await until(lambda: len(bench.log.proposals) == 2)
    assert not poll.done()
    late = await start(bench.leader.submit(submit("late", request_id="late")))
    bench.log.held = False
    bench.log.let_through()
    await asyncio.gather(first, *large, late)

    assert claimed(await poll)
    sizes = [len(each) for each in bench.log.proposals]
    assert len(sizes) >= 4
    kinds = [_types(bench, place) for place in range(len(sizes))]
    assert "late" not in kinds[2], "it came after those that were put off"


async def test_a_lease_ends_however_many_reports_fill_every_entry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of a kind that is decided before expiries are."""
    [task] = await held(bench, 1)
    monkeypatch.setattr(committer, "ENTRY_BUDGET", replace(ENTRY_BUDGET, rows_read_max=150))
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)
    request = worker_service_pb2.ReportRequest(worker_id="w")
    for number in range(100):
        request.reports.add(task_id=f"none {number}", token=1).release.SetInParent()
    reported = 0

    async def work() -> None:
        nonlocal reported
        while FencingToken(task.token) in bench.leader._leases:
            await bench.leader.submit(Report(request=request))
            reported += 1
            assert reported < 200

    await asyncio.gather(*(work() for _ in range(10)))


async def test_what_was_put_off_longest_is_reached_whatever_came_since(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports are decided before submits are, unless a submit was put off before they came."""
    monkeypatch.setattr(committer, "ENTRY_BUDGET", replace(ENTRY_BUDGET, rows_read_max=150))
    request = worker_service_pb2.ReportRequest(worker_id="w")
    for number in range(100):
        request.reports.add(task_id=f"none {number}", token=1).release.SetInParent()
    reported = 0
    waiting = True

    async def work() -> None:
        nonlocal reported
        while waiting:
            await bench.leader.submit(Report(request=request))
            reported += 1
            assert reported < 200

    calls = [asyncio.create_task(work()) for _ in range(10)]
    await bench.leader.submit(submit("a"))
    waiting = False
    await asyncio.gather(*calls)


def _types(bench: Bench, place: int) -> set[str]:
    specs = [table for table in entry(bench, place).tables if table.table == tables.SPECS]
    return {
        task_pb2.TaskSpec.FromString(sealed[1:-4]).type
        for table in specs
        for sealed in table.put_values
    }


async def test_the_callers_of_a_large_batch_hear_in_turns(bench: Bench) -> None:
    bench.log.held = True
    first = await start(bench.leader.submit(submit("a", request_id="first")))
    calls = [
        bench.leader._committer.submit(submit("a", request_id=f"r{n}"))
        for n in range(3 * committer.ANSWERS)
    ]
    bench.log.let_through()
    await until(lambda: len(bench.log.proposals) == 2)

    bench.log.let_through()
    heard = [0]
    while heard[-1] < len(calls):
        await asyncio.sleep(0)
        heard.append(sum(call.done() for call in calls))

    assert max(b - a for a, b in itertools.pairwise(heard)) == committer.ANSWERS
    await first


# ---------------------------------------------------------------- the leader's own operations


class Work:
    """Own operations that are due until they are at fault; suspects go alone."""

    def __init__(self, due: list[Operation]) -> None:
        self.due = due
        self.asked = 0
        self.at_fault: list[Operation] = []
        self._suspects: list[Operation] = []

    def operations(self, _: int, waiting: Collection[type[Operation]]) -> Iterator[Operation]:
        for operation in [*self._suspects, *self.due]:
            if type(operation) not in waiting:
                self.asked += 1
                yield operation

    def alone(self, operation: Operation) -> bool:
        return operation in self._suspects

    def decided(self, operation: Operation, _: Outcome) -> bool:
        if operation in self._suspects:
            self._suspects.remove(operation)
        return False

    def failed(self, operation: Operation, _: Exception, *, alone: bool) -> None:
        if not alone:
            self._suspects.append(operation)
            return
        self.at_fault.append(operation)
        self._suspects.remove(operation)
        self.due.remove(operation)


async def test_an_own_operation_that_cannot_be_decided_is_reported_and_holds_up_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work([MakeDue(tasks_max=10), ExpireLeases(leases=[])])

    def fragile(space: Space, operation: ExpireLeases) -> Steps:
        raise ZeroDivisionError

    monkeypatch.setitem(REGISTRY.decisions, ExpireLeases, fragile)
    monkeypatch.setattr(bench.leader._committer, "_housekeeping", work)

    calls = [await start(bench.leader.submit(submit("a", request_id=f"r{n}"))) for n in range(9)]
    await asyncio.gather(*calls)
    for _ in range(3):  # as the ticker does while something is due
        bench.leader._committer.wake()
        await several_turns()

    assert [type(each) for each in work.at_fault] == [ExpireLeases]


async def test_our_own_operations_are_asked_for_only_while_there_is_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work([HashState(), *[MakeDue(tasks_max=100)] * 100])

    monkeypatch.setattr(bench.leader._committer, "_housekeeping", work)
    await bench.leader.submit(submit("a"))

    assert 2 <= work.asked <= 10


async def test_own_work_that_found_no_room_among_what_was_put_off_is_not_asked_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work([MakeDue(tasks_max=100)])
    monkeypatch.setattr(bench.leader._committer, "_housekeeping", work)
    line_ = bench.leader._committer._waiting
    loop = asyncio.get_running_loop()
    large = [
        line.Waiting(many(1_000, f"r{n}"), loop.create_future(), 1_001, 0, first=True)
        for n in range(2)
    ]
    own = line.Waiting(MakeDue(), loop.create_future(), 100, 0, own=True, first=True)
    line_.put_back([*large, own])

    batch = bench.leader._committer._take_batch()

    assert batch == large[:1]
    assert work.asked == 0


async def test_a_batch_leaves_nothing_for_the_garbage_collector(bench: Bench) -> None:
    await bench.leader.submit(submit("resize"))
    with left_for_the_collector() as left:
        for number in range(20):
            await bench.leader.submit(submit("resize", request_id=f"r{number}"))
            (task,) = claimed(await bench.leader.claim(claim(most=1), 0, 0.0))
            await bench.leader.submit(release(task))
            await bench.leader.claim(claim(most=1, request_id="none"), 0.01, 0.0)

    assert not left
