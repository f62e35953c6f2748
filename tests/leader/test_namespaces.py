"""A leader of two namespaces: queue names, task ids, worker ids and request ids are the same."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.core.lone_queue import LoneQueue, at, spec
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
    workers,
)
from tests.leader.test_leases import lease
from tests.leader.test_task_log import event
from tests.patience import PATIENCE_S
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.clock import SystemClock
from tq_cluster.core.features import REGISTRY
from tq_cluster.core.housekeeping.request_ids import REQUESTS_A_TASK
from tq_cluster.core.kernel.feature import Instants
from tq_cluster.core.model.events import What
from tq_cluster.core.model.namespaces import Namespaces
from tq_cluster.core.model.operations import (
    Caller,
    Cancel,
    ConfigureQueue,
    ExpireLeases,
    MakeDue,
    Operation,
    RemoveRetired,
    Replied,
    Submit,
)
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, FencingToken, TimestampMs
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.leader import task_log
from tq_cluster.leader.leader import Leader
from tq_cluster.leader.leases import LeaseTable
from tq_cluster.leader.line import Line, Waiting, weigh
from tq_cluster.leader.sources import STAYS_MAX, ExpiredLeases, InTurns
from tq_cluster.reading import Reading
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.telemetry.logs import keys_of
from tq_cluster.telemetry.metrics import Metrics

TWO: Final = Namespaces({"shop": 7})
HERE, SHOP = Caller(namespace=DEFAULT_NAMESPACE), Caller(namespace=7)
EACH = (HERE, SHOP)
WAIT = task_service_pb2.WaitTaskRequest(task_id="t")
LIST_WORKERS = worker_service_pb2.ListWorkersRequest()
Result = worker_service_pb2.HeartbeatResult


@pytest.fixture
async def bench() -> Bench:
    made = Bench(namespaces=TWO)
    await made.log.start()
    return made


def submitting(caller: Caller, task_type: str = "a", **fields: object) -> Submit:
    """Submit task "t"."""
    task = task_pb2.TaskSpec(queue="q", type=task_type, task_id="t", **fields)  # type: ignore[arg-type]  # a protobuf message checks them itself
    request = task_service_pb2.SubmitRequest(request_id="r", tasks=[task])
    return Submit(request=request, id_seed="r", caller=caller)


async def leased(bench: Bench, caller: Caller) -> worker_service_pb2.ClaimedTask:
    """Submit task "t" in a namespace, and claim it there."""
    await bench.leader.submit(submitting(caller))
    asked = replace(claim(request_id="c"), caller=caller)
    (task,) = claimed(await bench.leader.claim(asked, 0, 0))
    return task


def anything(_size: int) -> None:
    """Take an answer of any size."""


async def test_a_waiting_claim_gets_the_tasks_of_its_namespace_alone(bench: Bench) -> None:
    waiting = {
        caller: await start(bench.leader.claim(replace(claim(), caller=caller), 30, 0))
        for caller in EACH
    }

    await bench.leader.submit(submitting(SHOP, "for-the-shop"))
    (task,) = claimed(await waiting[SHOP])
    assert task.spec.type == "for-the-shop"
    assert not waiting[HERE].done()

    await bench.leader.submit(submitting(HERE, "from-here"))
    (task,) = claimed(await waiting[HERE])
    assert task.spec.type == "from-here"


async def test_waiting_for_a_task_ends_with_that_of_the_same_namespace(bench: Bench) -> None:
    for caller in EACH:
        await bench.leader.submit(submitting(caller))
    waiting = {
        caller: await start(bench.leader.wait_task(WAIT, caller, 30, anything)) for caller in EACH
    }

    request = task_service_pb2.CancelTaskRequest(task_id="t")
    await bench.leader.submit(Cancel(request=request, caller=SHOP))

    ended = told(await waiting[SHOP], task_service_pb2.WaitTaskResponse)
    assert ended.task.state == task_pb2.TASK_STATE_CANCELLED
    assert not waiting[HERE].done()
    waiting[HERE].cancel()


async def test_waits_of_one_turn_are_each_answered_with_the_task_of_their_namespace(
    bench: Bench,
) -> None:
    for caller, task_type in zip(EACH, ("here", "shop"), strict=True):
        await bench.leader.submit(submitting(caller, task_type))

    answers = await asyncio.gather(
        *(bench.leader.wait_task(WAIT, caller, 0, anything) for caller in EACH)
    )

    waited = [told(answer, task_service_pb2.WaitTaskResponse) for answer in answers]
    assert [each.task.spec.type for each in waited] == ["here", "shop"]


async def test_a_worker_is_listed_in_its_namespace_with_what_it_does_there(bench: Bench) -> None:
    await leased(bench, HERE)
    task = await leased(bench, SHOP)
    report = replace(release(task), caller=SHOP)
    await bench.leader.submit(report)
    beat = heartbeat(task)
    beat.usage.memory_bytes = 9
    await bench.leader.heartbeat(beat, SHOP)

    [here] = workers(await bench.leader.list_workers(LIST_WORKERS, HERE))
    [shop] = workers(await bench.leader.list_workers(LIST_WORKERS, SHOP))

    assert here.worker_id == shop.worker_id == "w"
    assert (here.claimed, here.released, here.leases, here.usage.memory_bytes) == (1, 0, 1, 0)
    assert (shop.claimed, shop.released, shop.leases, shop.usage.memory_bytes) == (1, 1, 0, 9)
    assert workers(await bench.leader.list_workers(LIST_WORKERS, Caller(namespace=8))) == []


async def test_a_heartbeat_renews_the_leases_of_its_namespace_alone(bench: Bench) -> None:
    tasks = {caller: await leased(bench, caller) for caller in EACH}
    both = worker_service_pb2.HeartbeatRequest(worker_id="w")
    for caller in EACH:
        both.leases.add(task_id="t", token=tasks[caller].token)

    answers = [
        told(await bench.leader.heartbeat(both, caller), worker_service_pb2.HeartbeatResponse)
        for caller in EACH
    ]

    assert [[each.status for each in answer.results] for answer in answers] == [
        [Result.STATUS_RENEWED, Result.STATUS_LEASE_LOST],
        [Result.STATUS_LEASE_LOST, Result.STATUS_RENEWED],
    ]


async def test_a_report_with_the_token_of_another_namespace_is_refused(bench: Bench) -> None:
    tasks = {caller: await leased(bench, caller) for caller in EACH}

    for caller, other in (EACH, EACH[::-1]):
        outcome = await bench.leader.submit(replace(release(tasks[other]), caller=caller))
        [result] = told(outcome, worker_service_pb2.ReportResponse).results
        assert result.status == worker_service_pb2.ReportResult.STATUS_LEASE_LOST
    assert len(bench.leader._leases) == 2


async def test_leases_expire_in_every_namespace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for caller in EACH:
        await leased(bench, caller)

    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)
    await until(lambda: not len(bench.leader._leases), turn_s=0.01)

    for caller in EACH:
        answer = told(
            await bench.leader.wait_task(WAIT, caller, 0, anything),
            task_service_pb2.WaitTaskResponse,
        )
        assert [each.end for each in answer.task.attempts] == [task_pb2.Attempt.END_LEASE_EXPIRED]


async def test_a_new_leader_restarts_the_leases_of_every_namespace(bench: Bench) -> None:
    tasks = {caller: await leased(bench, caller) for caller in EACH}

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
        namespaces=TWO,
    )
    await bench.log.start()
    await until(lambda: len(successor._leases) == 2)

    for caller in EACH:
        answer = told(
            await successor.heartbeat(heartbeat(tasks[caller]), caller),
            worker_service_pb2.HeartbeatResponse,
        )
        assert [each.status for each in answer.results] == [Result.STATUS_RENEWED]


async def test_claims_of_two_namespaces_under_one_request_id_share_an_entry() -> None:
    def waiting(caller: Caller) -> Waiting:
        operation = replace(claim(request_id="c"), caller=caller)
        outcome = asyncio.get_running_loop().create_future()
        return Waiting(operation, outcome, *weigh(operation))

    line = Line()
    here, shop, repeated = waiting(HERE), waiting(SHOP), waiting(SHOP)
    for each in (here, shop, repeated):
        line.add(each)
    batch: list[Waiting] = []
    line.take(batch)

    assert batch == [here, shop]


async def test_a_request_id_is_of_one_namespace(bench: Bench) -> None:
    first = [await bench.leader.submit(submitting(caller)) for caller in EACH]
    again = [await bench.leader.submit(submitting(caller)) for caller in EACH]
    other = await bench.leader.submit(submitting(SHOP, "another-body"))

    assert all(isinstance(outcome, Replied) for outcome in first)
    assert first == again
    assert not isinstance(other, Replied)


# ---------------------------------------------------------------- what time brings


class Pair:
    """The same queue in two namespaces of one state, on one clock."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.store = store
        self.view = store.view
        self.queues = {
            DEFAULT_NAMESPACE: LoneQueue(store=store),
            7: LoneQueue(store=store, namespace=7),
        }

    def pass_time(self, ms: int) -> None:
        for queue in self.queues.values():
            queue.now_ms += ms

    def instants(self) -> Instants:
        now_ms = self.queues[DEFAULT_NAMESPACE].now_ms
        return Instants(TimestampMs(now_ms), now_ms)

    def source(self, kind: str) -> InTurns:
        [work] = [work for work in REGISTRY.timed_work if work.kind == kind]
        return InTurns(work, TWO, self.view, lambda: self.store.applied, self.instants)

    def do(self, operation: Operation) -> None:
        self.queues[operation.caller.namespace].decide(operation)


def test_leases_that_end_in_one_operation_are_of_one_namespace() -> None:
    leases = LeaseTable(lambda: 100.0)
    for token in range(6):
        namespace = 7 if token % 3 else DEFAULT_NAMESPACE
        leases.grant(lease(token, length_ms=-60_000)._replace(namespace=namespace))
    source = ExpiredLeases(leases)
    ended: list[tuple[int, set[FencingToken], bool]] = []
    while source.first(()) is not None:
        operation = source.operation(50, frozenset())
        assert isinstance(operation, ExpireLeases)
        tokens = {each.token for each in operation.leases}
        ended.append((operation.caller.namespace, tokens, operation.more))
        for token in tokens:
            leases.end(token)

    assert {namespace: tokens for namespace, tokens, _ in ended} == {
        DEFAULT_NAMESPACE: {0, 3},
        7: {1, 2, 4, 5},
    }
    assert [more for _, _, more in ended] == [True, False]


def due(pair: Pair) -> InTurns:
    for queue in pair.queues.values():
        queue.submitted(*[spec(run_at=at(10)) for _ in range(3)])
    pair.pass_time(20)
    return pair.source("due")


def retired(pair: Pair) -> InTurns:
    for queue in pair.queues.values():
        for task_id in queue.submitted(*[spec(retention=Duration()) for _ in range(3)]):
            queue.cancel(task_id)
    pair.pass_time(20)
    return pair.source("retention")


@pytest.mark.parametrize("source_of", [due, retired])
def test_namespaces_take_turns_at_what_time_brings(source_of: Callable[[Pair], InTurns]) -> None:
    pair = Pair()
    source = source_of(pair)
    done: list[tuple[int, bool]] = []
    while source.first(()) is not None:
        operation = source.operation(1, frozenset())
        assert isinstance(operation, MakeDue | RemoveRetired)
        done.append((operation.caller.namespace, operation.more))
        pair.do(operation)

    assert [namespace for namespace, _ in done] == [DEFAULT_NAMESPACE, 7] * 3
    assert [more for _, more in done] == [True] * 5 + [False]


def test_a_state_that_does_not_change_is_not_looked_through_until_its_next_item_is_due() -> None:
    pair = Pair()
    [work] = [work for work in REGISTRY.timed_work if work.kind == "due"]
    looks: list[int] = []

    def first(scope: Scope[View], at: Instants, passed_over: Collection[int]) -> int | None:
        looks.append(scope.namespace)
        return work.first(scope, at, passed_over)

    counted = replace(work, first=first)
    source = InTurns(counted, TWO, pair.view, lambda: pair.store.applied, pair.instants)
    pair.queues[7].submitted(spec(run_at=at(30)))
    assert source.first(()) is None
    assert source.quiet_s() == 0, "unknown until the second look"
    for passed_ms in range(5):
        assert source.first(()) is None
        assert source.quiet_s() == pytest.approx((30 - passed_ms) / 1000)
        pair.pass_time(1)
    assert sorted(looks) == [DEFAULT_NAMESPACE, 7]

    pair.queues[DEFAULT_NAMESPACE].submitted(spec(run_at=at(10)))
    assert source.quiet_s() == 0, "the state has changed"
    assert source.first(()) is None
    assert len(looks) == 4, "the state has changed"
    pair.pass_time(10)
    assert source.first(()) is not None
    pair.do(source.operation(50, frozenset()))
    assert source.first(()) is None
    pair.pass_time(30)
    assert source.first(()) is not None


def test_request_ids_are_dropped_in_every_namespace() -> None:
    pair = Pair()
    for queue in pair.queues.values():
        for number in range(10 * REQUESTS_A_TASK):
            queue.submitted(spec(), request_id=f"r{number}")
    pair.pass_time(3_600_000)
    source = pair.source("requests")
    done: list[int] = []
    while source.first(()) is not None:
        operation = source.operation(1, frozenset())
        done.append(operation.caller.namespace)
        pair.do(operation)

    assert sorted(done) == [DEFAULT_NAMESPACE] * 10 + [7] * 10
    assert done.index(7) == STAYS_MAX + 1, "it does not wait until the other has none"


def test_what_cannot_be_decided_is_tried_again_before_the_next_namespace_has_its_turn() -> None:
    pair = Pair()
    source = due(pair)
    first = source.first(())
    assert first is not None
    tried: list[tuple[int | None, int]] = []
    for items_max in (50, 50, 1):  # in company, alone, as the only item
        number = source.first(())
        tried.append((number, source.operation(items_max, frozenset()).caller.namespace))
    assert tried == [(first, DEFAULT_NAMESPACE)] * 3

    source.first({first})
    assert source.operation(50, frozenset({first})).caller.namespace == 7


def test_an_item_that_only_comes_back_does_not_keep_another_namespace_waiting() -> None:
    source = due(Pair())
    turns = []
    for _ in range(STAYS_MAX + 2):
        source.first(())
        turns.append(source.operation(1, frozenset()).caller.namespace)

    assert turns == [DEFAULT_NAMESPACE] * (STAYS_MAX + 1) + [7]


async def test_due_tasks_of_every_namespace_are_handed_out(bench: Bench) -> None:
    waiting = [
        await start(bench.leader.claim(replace(claim(), caller=caller), 30, 0)) for caller in EACH
    ]
    for caller in EACH:
        soon = submitting(caller)
        in_a_moment_ms = SystemClock().wall_ms() + 100
        soon.request.tasks[0].run_at.FromMilliseconds(in_a_moment_ms)
        await bench.leader.submit(soon)

    for each in waiting:
        (task,) = claimed(await asyncio.wait_for(each, PATIENCE_S))
        assert task.spec.task_id == "t"


# ---------------------------------------------------------------- what is measured and logged


async def test_series_of_another_namespace_have_its_name_before_the_queues() -> None:
    metrics = Metrics()
    bench = Bench(metrics, namespaces=TWO)
    await bench.log.start()

    def series(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    await bench.leader.submit(submitting(HERE))
    for number in range(2):
        one = replace(submit("b", request_id=f"r{number}"), caller=SHOP)
        await bench.leader.submit(one)
    shop_claim = replace(claim("w", most=1), caller=SHOP)
    claimed(await bench.leader.claim(shop_claim, 0, 0))
    settings = queue_service_pb2.QueueSettings(paused=True)
    pause = queue_service_pb2.ConfigureQueueRequest(queue="q", settings=settings)
    await bench.leader.submit(ConfigureQueue(request=pause, caller=SHOP))
    for _ in EACH:  # a slice for each namespace
        bench.leader.sample()

    for queue, task_type, submitted, pending in (("q", "a", 1, 1), ("shop/q", "b", 2, 1)):
        assert series("tq_tasks_submitted_total", queue=queue, type=task_type) == submitted
        waiting = series("tq_queue_tasks", queue=queue, state="pending", priority="0-63")
        assert waiting == pending
    assert series("tq_queue_workers", queue="shop/q") == series("tq_workers") == 1
    assert series("tq_queue_workers", queue="q") is None
    assert series("tq_queue_paused", queue="shop/q") == 1
    assert series("tq_queue_paused", queue="q") is None
    assert series("tq_leases") == 1


def test_a_line_about_a_task_of_another_namespace_names_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.NOTSET, logger=task_log.__name__)
    write = task_log.writer(wanted=True, namespaces=TWO)
    assert write is not None

    write(event(What.SUBMITTED))
    write(event(What.SUBMITTED, namespace=7))

    assert [keys_of(record).get("namespace") for record in caplog.records] == [None, "shop"]


async def test_an_event_names_the_namespace_of_its_task() -> None:
    events: list[tuple[What, int]] = []
    bench = Bench(on_event=lambda each: events.append((each.what, each.namespace)), namespaces=TWO)
    await bench.log.start()

    for caller in EACH:
        await bench.leader.submit(submitting(caller))

    assert events == [(What.SUBMITTED, DEFAULT_NAMESPACE), (What.SUBMITTED, 7)]
