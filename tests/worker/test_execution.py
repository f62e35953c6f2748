"""Handlers with a process to themselves, and types of which only so many run at a time."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from tests.worker.conftest import SAMPLES, SHIPPED, SOLO, Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tq.internal.v1.worker_child_pb2 import Handler
from tq_common.limits import CLAIM_TYPES_MAX
from tq_worker import task
from tq_worker.api.registry import Registry
from tq_worker.broker.claim_groups import ClaimGroup, claim_groups, problem

ALL = (SHIPPED, SAMPLES, SOLO)


async def test_async_threads_and_processes_run_side_by_side(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(ALL, process_slots=2)
    running = await broker.submit("solo-until-file", facts.payload, count=2)
    await facts.until("solo started", count=2)

    [shared] = await broker.until_ended(await broker.submit("pid"))
    facts.path.with_name("facts.go").touch()
    solo = await broker.until_ended(running)
    more = await broker.until_ended(await broker.submit("solo-async"))

    assert len({shared.result, *(each.result for each in solo)}) == 3
    assert more[0].result in {each.result for each in solo}


@pytest.mark.slow
async def test_a_crash_of_a_handler_with_its_own_process_is_no_other_task_s_affair(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(ALL, process_slots=2)
    [shared] = await broker.submit("until-file", facts.payload)
    [solo] = await broker.submit("solo-until-file", facts.payload)
    await facts.until("started")
    await facts.until("solo started")

    [crashed] = await broker.until_ended(await broker.submit("solo-segfault", max_attempts=2))
    facts.path.with_name("facts.go").touch()
    others = await broker.until_ended([shared, solo])

    assert crashed.ends == ["failed", "failed"]
    assert crashed.error == "the handler process was ended by SIGSEGV"
    assert [each.ends for each in others] == [["completed"], ["completed"]]


@pytest.mark.slow
async def test_a_hard_kill_of_a_handler_with_its_own_process_hurts_that_task_alone(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.broker.held_tasks.STOP_GRACE_S", 0.2)
    await start_worker(ALL, process_slots=2)
    [shared] = await broker.submit("until-file", facts.payload)
    [solo] = await broker.submit("solo-until-file", facts.payload)
    await facts.until("started")
    await facts.until("solo started")

    stubborn = await broker.submit("solo-stubborn", facts.payload, timeout_s=0.2, max_attempts=1)
    [killed] = await broker.until_ended(stubborn)
    facts.path.with_name("facts.go").touch()
    others = await broker.until_ended([shared, solo])

    assert killed.error.startswith("timed out after 0.2 s; the handler did not stop: ")
    assert [each.ends for each in others] == [["completed"], ["completed"]]


async def test_no_more_is_claimed_for_processes_than_there_are_and_others_go_on(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(ALL, concurrency=2, process_slots=1)
    first, second = await broker.submit("solo-until-file", facts.payload, count=2)
    await facts.until("solo started")

    await broker.until_ended(await broker.submit("echo", count=50))
    assert broker.tasks[second].state == "PENDING"

    facts.path.with_name("facts.go").touch()
    await broker.until_ended([first, second])


@pytest.mark.slow
async def test_losing_the_lease_stops_a_handler_with_its_own_process_and_reports_nothing(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(ALL, lease_s=1.0)
    [task_id] = await broker.submit("solo-until-cancelled", facts.payload)
    await facts.until("solo started")
    stale = broker.tasks[task_id].token

    broker.tasks[task_id].spec.queue = "elsewhere"
    await broker.expire(task_id)

    await facts.until("stopped: the lease was lost")
    await broker.until_ended(await broker.submit("solo-pid"))
    assert stale not in [report.token for report in broker.reports]


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "most"), [({}, 2), ({"two-at-a-time": 1}, 1)])
async def test_of_a_type_with_a_limit_only_so_many_run_and_others_are_not_blocked_behind_it(
    broker: FakeBroker,
    start_worker: StartWorker,
    facts: Facts,
    limit: dict[str, int],
    most: int,
) -> None:
    await start_worker(ALL, concurrency=4, limits=limit)
    ids = await broker.submit("two-at-a-time", facts.payload, count=20)
    await facts.until("in", count=most)

    await broker.until_ended(await broker.submit("echo", count=50))
    assert facts.lines() == ["in"] * most
    assert [broker.tasks[each].state for each in ids].count("RUNNING") == most

    facts.path.with_name("facts.go").touch()
    ended = await broker.until_ended(ids)
    assert {tuple(each.ends) for each in ended} == {("completed",)}
    inside = 0
    for line in facts.lines():
        inside += 1 if line == "in" else -1
        assert inside <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_type", "payload", "count"), [("echo", b"", 8000), ("sleep", b"0.4", 800)]
)
async def test_a_type_with_a_limit_gets_its_turn_before_a_backlog_of_others_is_worked_off(
    broker: FakeBroker,
    start_worker: StartWorker,
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
    task_type: str,
    payload: bytes,
    count: int,
) -> None:
    monkeypatch.setattr("tq_worker.broker.slot_fairness.TURN_S", 0.1)
    facts.path.with_name("facts.go").touch()
    backlog = await broker.submit(task_type, payload, count=count)
    limited = await broker.submit("two-at-a-time", facts.payload, count=2)
    await start_worker(ALL, concurrency=1)

    await broker.until_ended(limited)

    assert "PENDING" in {broker.tasks[each].state for each in backlog}
    # Nor does it keep the others from their turn.
    await broker.until(
        lambda: any(broker.tasks[each].state == "COMPLETED" for each in backlog), "others go on"
    )


@pytest.mark.slow
async def test_a_process_makes_way_after_so_many_tasks_and_none_is_lost_or_tried_again(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    run = await start_worker(ALL, concurrency=2, tasks_max=5)

    ended = await broker.until_ended(await broker.submit("pid", count=23))
    solo = await broker.until_ended(await broker.submit("solo-pid", count=6))

    by_pid = [each.result for each in ended]
    assert max(by_pid.count(pid) for pid in by_pid) == 5
    assert len(set(by_pid)) >= 5
    assert len({each.result for each in solo}) == 2
    assert {(tuple(each.ends), each.attempts) for each in [*ended, *solo]} == {(("completed",), 1)}
    assert run.worker._stats.deaths == 0


@pytest.mark.slow
async def test_a_worn_process_finishes_what_it_runs_while_another_takes_its_place(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker(ALL, concurrency=3, tasks_max=2)
    slow = await broker.submit("until-file", facts.payload, count=2)
    await facts.until("started", count=2)

    # One slot is left: it goes on working, and never do more than three run.
    await broker.until_ended(await broker.submit("echo", count=3))
    slow += await broker.submit("until-file", facts.payload, count=3)
    await facts.until("started", count=3)
    await broker.until(lambda: len(run.pids()) == 2, "a process for the shared slots and one alone")
    assert run.worker._pool.room(solo=False) == 0
    assert [broker.tasks[each].state for each in slow].count("RUNNING") == 3

    facts.path.with_name("facts.go").touch()
    ended = await broker.until_ended(slow)
    assert {(tuple(each.ends), each.attempts) for each in ended} == {(("completed",), 1)}


@pytest.mark.slow
async def test_a_process_makes_way_when_it_uses_too_much_memory(
    broker: FakeBroker, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.worker.RELIEVE_S", 0.05)
    run = await start_worker(ALL, memory_bytes_max=150_000_000)
    [first] = await broker.until_ended(await broker.submit("leak", b"200"))

    gone = int(first.result)
    await broker.until(lambda: not psutil.pid_exists(gone), "the process's end")

    [second] = await broker.until_ended(await broker.submit("leak", b"0"))
    assert second.result != first.result
    assert run.worker._stats.recycled == {"memory": 1}
    assert run.worker._stats.deaths == 0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"execution": "async"}, "execution='async': .* is not async"),
        ({"execution": "fork"}, "execution='fork': it is async, thread or process"),
        ({"concurrency": 0}, "concurrency=0: 1 to 1000 are allowed"),
    ],
)
def test_a_handler_that_cannot_run_so_is_refused_when_it_is_defined(
    options: dict[str, object], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.api.registry.HANDLERS", Registry())

    decorate: Any = task

    def handler(_payload: bytes, _context: object) -> None: ...

    with pytest.raises(ValueError, match=fault):
        decorate("x", **options)(handler)


def test_a_typed_function_may_have_a_process_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Registry()
    monkeypatch.setattr("tq_worker.api.registry.HANDLERS", handlers)

    @task("crunch", execution="process", concurrency=3)
    def crunch(numbers: list[int]) -> int:
        return sum(numbers)

    [handler] = handlers.handlers()
    assert (handler.execution, handler.concurrency) == ("process", 3)


def test_a_limit_for_a_type_without_a_handler_is_a_mistake_that_is_named() -> None:
    assert problem({}, {"x": 1}) is not None


def known(*types: str, solo: bool = False, limit: int = 0) -> dict[str, Handler]:
    return {name: Handler(type=name, solo=solo, limit=limit) for name in types}


def test_a_worker_asks_for_the_types_that_it_has_handlers_of() -> None:
    handlers = known("b", "a") | known("own", solo=True) | known("few", limit=2)

    asked = claim_groups(handlers, {})

    assert [(each.types, each.solo, each.limit) for each in asked] == [
        (("a", "b"), False, None),
        (("own",), True, None),
        (("few",), False, 2),
    ]
    assert [each.types for each in claim_groups(known("own", solo=True), {})] == [("own",)]


def test_more_types_than_a_claim_can_name_are_asked_for_by_leaving_out_the_rest() -> None:
    names = [f"t{number}" for number in range(CLAIM_TYPES_MAX + 1)]

    [most, few] = claim_groups(known(*names) | known("few", limit=2), {})

    assert (most.types, most.except_types) == ((), ("few",))
    assert few.types == ("few",)
    assert claim_groups(known(*names[1:]), {}) == [ClaimGroup(types=tuple(sorted(names[1:])))]
