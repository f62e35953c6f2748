"""The leader's own work: in what slices it is done, and what becomes of what cannot be decided."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.leader.bench import Bench, claim, claimed, submit, told, until
from tests.leader.test_leases import Hands
from tests.patience import PATIENCE_S
from tests.scopes import scope_of
from tq.v1 import queue_service_pb2, worker_service_pb2
from tq_cluster.core.decide import deciding
from tq_cluster.core.model.operations import (
    Decision,
    Done,
    ExpireLeases,
    Lease,
    MakeDue,
    Operation,
    RemoveRetired,
    Report,
)
from tq_cluster.core.model.types import (
    DEFAULT_NAMESPACE,
    DurationMs,
    FencingToken,
    TaskId,
    TaskNumber,
)
from tq_cluster.core.reads import queries
from tq_cluster.core.reads.steps import in_one_go
from tq_cluster.leader.committer import OWN_ITEMS_MIN
from tq_cluster.leader.housekeeping import (
    IDLE_S,
    ITEMS_MIN,
    PASSED_OVER_MAX,
    PASSED_OVER_MAX_S,
    PASSED_OVER_S,
    Housekeeping,
)

Deciding = Generator[None, None, Decision]


@dataclass
class Pile:
    """A source with things to do, some of which cannot be done."""

    kind: str
    make: type[RemoveRetired | MakeDue]
    todo: list[int] = field(default_factory=list)
    spoilt: set[int] = field(default_factory=set)
    pause_s: float = 0.0
    largest: int = 0
    looks: int = 0
    quiet_for_s: float = math.inf

    def quiet_s(self) -> float:
        return self.quiet_for_s

    def first(self, passed_over: Collection[int]) -> int | None:
        self.looks += 1
        return next((number for number in self.todo if number not in passed_over), None)

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:
        self.largest = max(self.largest, items_max)
        if self.make is MakeDue:
            return MakeDue(tasks_max=items_max, passed_over=passed_over)
        return RemoveRetired(rows_max=items_max, passed_over=passed_over)

    def do(self, operation: Operation) -> Done:
        assert isinstance(operation, MakeDue | RemoveRetired)
        most = operation.tasks_max if isinstance(operation, MakeDue) else operation.rows_max
        left = [number for number in self.todo if number not in operation.passed_over]
        done = left[:most]
        if self.spoilt.intersection(done):
            raise AssertionError(f"{self.kind} {self.spoilt} cannot be done")
        self.todo = [number for number in self.todo if number not in done]
        return Done(more=len(done) == most, items=len(done))


class Household:
    """Piles that are worked off, a batch at a time."""

    def __init__(self, *piles: Pile) -> None:
        self.piles: dict[type[Operation], Pile] = {pile.make: pile for pile in piles}
        self.clock = Hands()
        self.failed: list[str] = []
        self.keeping = Housekeeping(piles, now_s=self.clock, failed=self.failed.append)
        self.keeping.begin()

    def batch(self, items_max: int = 500) -> list[str]:
        """Decide what one batch holds; the kinds in it."""
        asked: list[Operation] = []
        for operation in self.keeping.operations(items_max):
            asked.append(operation)
            if self.keeping.alone(operation):
                break
        try:
            done = [self.piles[type(operation)].do(operation) for operation in asked]
        except AssertionError as error:
            for operation in asked:
                self.keeping.failed(operation, error, alone=len(asked) == 1)
        else:
            for operation, outcome in zip(asked, done, strict=True):
                self.keeping.decided(operation, outcome)
        return [self.piles[type(operation)].kind for operation in asked]

    def batches_until_idle(self, most: int = 1_000) -> int:
        """Make batches until nothing is due."""
        for count in range(most):
            if not self.batch():
                return count
        raise AssertionError(f"after {most} batches there is more")


def test_slices_grow_while_there_is_more_and_shrink_again() -> None:
    pile = Pile("due", MakeDue, list(range(10_000)))
    household = Household(pile)

    batches = household.batches_until_idle()

    assert pile.todo == []
    assert batches < 30, "10,000 in slices of up to 500"
    assert pile.largest == 500
    pile.todo, pile.largest = [1], 0
    household.clock.at_s += IDLE_S
    household.batch()
    assert pile.largest == ITEMS_MIN


def test_those_that_have_something_to_do_share_a_batch_evenly() -> None:
    due = Pile("due", MakeDue, list(range(2_000)))
    retention = Pile("retention", RemoveRetired, list(range(2_000)))
    household = Household(due, retention)

    for _ in range(10):
        household.batch()

    assert len(due.todo) == len(retention.todo)
    assert due.largest == retention.largest == 250


def test_who_finds_no_room_in_a_batch_is_asked_first_for_the_next() -> None:
    household = Household(Pile("due", MakeDue, [1, 2]), Pile("retention", RemoveRetired, [1, 2]))

    first = next(household.keeping.operations(1))
    second = next(household.keeping.operations(1))

    assert isinstance(first, MakeDue)
    assert isinstance(second, RemoveRetired)


def test_a_source_with_nothing_to_do_is_no_reason_for_a_batch_until_its_pause_is_over() -> None:
    pile = Pile("retention", RemoveRetired, pause_s=1.0)
    household = Household(pile)
    assert not household.keeping.due()

    pile.todo = [1]
    household.clock.at_s += IDLE_S
    assert not household.keeping.due()
    assert list(household.keeping.operations(100)), "a batch that is made anyway takes it along"
    household.clock.at_s += 1
    assert household.keeping.due()


def test_nothing_is_due_until_the_first_source_has_something_and_may_cause_a_batch() -> None:
    soon = Pile("due", MakeDue, quiet_for_s=3.0)
    later = Pile("retired", RemoveRetired, quiet_for_s=0.0, pause_s=5.0)
    house = Household(soon, later)
    assert house.keeping.quiet_s() == 0.0, "it may have something to do at once"
    assert not house.keeping.due()
    assert house.keeping.quiet_s() == 3.0
    house.clock.at_s += 4
    assert house.keeping.quiet_s() == 1.0, "its pause is not over"


def test_a_source_with_nothing_to_do_is_not_asked_for_every_batch() -> None:
    """A batch of a lone caller's would wait for it."""
    pile = Pile("due", MakeDue)
    household = Household(pile)
    for _ in range(100):
        household.batch()
    assert pile.looks == 1

    pile.todo = [1, 2]
    assert household.keeping.due(), "the beat finds what has become due meanwhile"
    assert household.batch() == ["due"]


def test_what_cannot_be_decided_is_found_passed_over_and_blocks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    due = Pile("due", MakeDue, list(range(1_000)), spoilt={317})
    retention = Pile("retention", RemoveRetired, list(range(1_000)))
    household = Household(due, retention)

    with caplog.at_level(logging.ERROR):
        household.batches_until_idle(200)

    assert due.todo == [317]
    assert retention.todo == []
    assert household.failed == ["due"]
    (record,) = caplog.records
    assert (record.getMessage(), record.kind, record.number) == (  # type: ignore[attr-defined]
        "own operation cannot be decided",
        "due",
        317,
    )


def test_what_was_passed_over_is_tried_again_alone_and_less_and_less_often() -> None:
    due = Pile("due", MakeDue, [1, 2, 3], spoilt={1})
    household = Household(due)
    household.batches_until_idle()
    assert due.todo == [1]

    due.largest = 0
    pauses = []
    for _ in range(8):
        began_s = household.clock.at_s
        while not household.batch():
            household.clock.at_s += 1
        pauses.append(household.clock.at_s - began_s)
    assert due.largest == 1
    assert pauses[:3] == [PASSED_OVER_S, 2 * PASSED_OVER_S, 4 * PASSED_OVER_S]
    assert max(pauses) == PASSED_OVER_MAX_S
    assert household.failed == ["due"] * 9

    due.spoilt.clear()
    household.clock.at_s += PASSED_OVER_MAX_S
    household.batches_until_idle()
    assert due.todo == []


def test_what_was_passed_over_and_is_gone_slows_nothing_down() -> None:
    due = Pile("due", MakeDue, [1, 2, 3], spoilt={1})
    household = Household(due)
    household.batches_until_idle()
    due.todo, due.largest = [], 0
    household.clock.at_s += PASSED_OVER_MAX_S
    assert not household.batch()

    due.todo = list(range(10, 5_000))
    household.clock.at_s += IDLE_S
    assert household.batches_until_idle() < 30
    assert due.largest == 500


def test_a_kind_of_which_too_much_cannot_be_decided_waits_as_a_whole() -> None:
    due = Pile("due", MakeDue, list(range(500)), spoilt=set(range(500)))
    retention = Pile("retention", RemoveRetired, list(range(500)))
    household = Household(due, retention)

    household.batches_until_idle(3 * PASSED_OVER_MAX)

    assert retention.todo == []
    assert len(household.failed) == PASSED_OVER_MAX + 1
    due.spoilt.clear()
    household.clock.at_s += PASSED_OVER_MAX_S
    household.batches_until_idle()
    assert due.todo == []


# ---------------------------------------------------------------- with a committer


@contextmanager
def undecidable(
    monkeypatch: pytest.MonkeyPatch, kind: type[Operation]
) -> Iterator[list[list[type[Operation]]]]:
    """Let nothing of a kind be decided; what was in each batch."""
    batches: list[list[type[Operation]]] = []

    def fragile(operations: list[Operation], *rest: object, **named: object) -> Deciding:
        batches.append([type(operation) for operation in operations])
        if kind in batches[-1]:
            raise AssertionError(f"{kind.__name__} is beyond us")
        return deciding(operations, *rest, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr("tq_cluster.leader.committer.deciding", fragile)
        yield batches


def overdue(bench: Bench, count: int) -> None:
    """Put leases into the leader's memory that have run out."""
    for number in range(count):
        lease = Lease(
            FencingToken(number),
            TaskNumber(number),
            TaskId(f"t{number}"),
            DurationMs(-60_000),
            DEFAULT_NAMESPACE,
        )
        bench.leader._leases.grant(lease)


async def test_own_work_that_cannot_be_decided_leaves_callers_alone_and_is_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with undecidable(monkeypatch, ExpireLeases) as batches, caplog.at_level(logging.ERROR):
        overdue(bench, 1)
        for number in range(100):
            await bench.leader.submit(submit("resize", request_id=f"r{number}"))
        await until(lambda: bool(caplog.records), turn_s=0.01)
        for number in range(100, 200):
            await bench.leader.submit(submit("resize", request_id=f"r{number}"))

    failing = [each for each in batches if ExpireLeases in each]
    assert len(failing) <= 3, "in company, alone, then no more"
    assert [record.getMessage() for record in caplog.records] == ["own operation cannot be decided"]
    assert caplog.records[0].kind == "leases"  # type: ignore[attr-defined]


async def test_one_lease_that_cannot_be_ended_keeps_no_other_from_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.leader.submit(submit(*["resize"] * 300))
    tasks = claimed(await bench.leader.claim(claim(most=300, lease_s=1), 0, 0.0))
    spoilt = tasks[77].token

    def fragile(operations: list[Operation], *rest: object, **named: object) -> Deciding:
        for operation in operations:
            if isinstance(operation, ExpireLeases):
                assert spoilt not in [lease.token for lease in operation.leases]
        return deciding(operations, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("tq_cluster.leader.committer.deciding", fragile)
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)
    await until(lambda: len(bench.leader._leases) == 1, turn_s=0.01)

    assert spoilt in bench.leader._leases


async def test_callers_have_every_other_batch_while_what_cannot_be_decided_is_looked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.leader.submit(submit(*["resize"] * 400))
    tasks = claimed(await bench.leader.claim(claim(most=400, lease_s=1), 0, 0.0))
    spoilt = {task.token for task in tasks[::9]}
    batches: list[tuple[bool, bool]] = []
    """Of each: whether it was our own, alone, and whether callers waited."""

    def fragile(operations: list[Operation], *rest: object, **named: object) -> Deciding:
        lone = [type(operation) for operation in operations] == [ExpireLeases]
        batches.append((lone, len(bench.leader._committer._waiting) > 0))
        for operation in operations:
            if isinstance(operation, ExpireLeases):
                assert spoilt.isdisjoint(lease.token for lease in operation.leases)
        return deciding(operations, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("tq_cluster.leader.committer.deciding", fragile)
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)

    async def calls(caller: int) -> None:
        number = 0
        while batches.count((True, True)) < 20:
            number += 1
            await bench.leader.submit(submit("resize", request_id=f"r{caller} {number}"))

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(calls(caller) for caller in range(3)))
    for (lone_before, _), batch in itertools.pairwise(batches):
        assert not lone_before or batch != (True, True)


async def test_what_is_due_goes_on_from_entry_to_entry_without_waiting_for_the_next_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_cluster.leader.ticker.TICK_S", 3600)
    await bench.leader.submit(submit(*["resize"] * 1_000))
    claimed(await bench.leader.claim(claim(most=1_000, lease_s=1), 0, 0.0))
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)

    bench.leader._committer.wake()
    async with asyncio.timeout(PATIENCE_S):
        while len(bench.leader._leases):  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)


@pytest.mark.slow
async def test_retention_keeps_up_with_callers_who_fill_every_entry(bench: Bench) -> None:
    """It is decided in the same entries, so this holds on a machine of any speed."""
    batch, rounds = 50, 20
    completed = 0
    most_kept = 0

    async def work(worker: int) -> None:
        nonlocal completed, most_kept
        for number in range(rounds):
            tasks = submit(*["resize"] * batch, request_id=f"r{worker} {number}")
            for task in tasks.request.tasks:
                task.retention.SetInParent()  # none
            await bench.leader.submit(tasks)
            held = claimed(await bench.leader.claim(claim(f"w{worker}", most=batch), 30, 0.0))
            reports = [
                worker_service_pb2.TaskReport(
                    task_id=task.spec.task_id,
                    token=task.token,
                    complete=worker_service_pb2.Completion(),
                )
                for task in held
            ]
            request = worker_service_pb2.ReportRequest(worker_id=f"w{worker}", reports=reports)
            await bench.leader.submit(Report(request=request))
            completed += len(held)
            most_kept = max(most_kept, kept(bench))

    await asyncio.gather(*(work(worker) for worker in range(6)))

    assert completed > 5_000
    # What may have been completed and not removed: what one entry holds, and what is under way.
    assert most_kept <= 1_000


def kept(bench: Bench) -> int:
    request = queue_service_pb2.GetQueueStatsRequest(queue="q")
    outcome = in_one_go(scope_of(bench.store.view()), queries.queue_stats, request)
    return told(outcome, queue_service_pb2.GetQueueStatsResponse).stats.completed


async def test_callers_share_a_batch_with_no_more_of_our_own_work_than_they_bring(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.leader.submit(submit(*["resize"] * 1_000))
    claimed(await bench.leader.claim(claim(most=1_000, lease_s=1), 0, 0.0))
    shares: list[int] = []

    def counted(operations: list[Operation], *rest: object, **named: object) -> Deciding:
        shares.extend(len(each.leases) for each in operations if isinstance(each, ExpireLeases))
        return deciding(operations, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("tq_cluster.leader.committer.deciding", counted)
    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)
    await until(lambda: len(bench.leader._leases) == 0, turn_s=0.01)

    # No caller came; what was retried and is due again may have had a part of it.
    assert max(shares) <= OWN_ITEMS_MIN
