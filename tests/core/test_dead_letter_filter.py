"""Dead letters by type, error, reason and time: listed, counted, redriven, deleted."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import pytest

from tests.core.lone_queue import LoneQueue, at, reason, replied, spec
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core.model.operations import Outcome, Refused
from tq_cluster.core.reads.listings import list_dead_letters
from tq_cluster.core.reads.steps import in_one_go
from tq_common.limits import FILTER_ERROR_BYTES_MAX

Filter = queue_service_pb2.DeadLetterFilter
Redriven = queue_service_pb2.RedriveResponse
Deleted = queue_service_pb2.DeleteDeadLettersResponse
EXPIRED = task_pb2.FAILURE_REASON_EXPIRED
TYPES = ("send", "sent", "resize")
ERRORS = {
    "refused": "ConnectionError: refused",
    "reset": "ConnectionError: reset",
    "value": "ValueError: ä",
}
HOUR_MS = 3_600_000


def dies(queue: LoneQueue, task_id: str, task_type: str, error: str) -> None:
    queue.submitted(spec(task_id=task_id, type=task_type))
    [task] = queue.claimed()
    queue.fail(task, error, permanent=True)


def listed(queue: LoneQueue, chosen: Filter, page_size: int = 0) -> list[str]:
    """The ids of all pages, the last to fail first."""
    found: list[str] = []
    request = queue_service_pb2.ListDeadLettersRequest(
        queue="default", filter=chosen, page_size=page_size
    )
    while True:
        outcome = in_one_go(queue.scope(), list_dead_letters, request)
        reply = replied(outcome, queue_service_pb2.ListDeadLettersResponse)
        assert len(reply.tasks) <= (page_size or 100)
        found += [task.spec.task_id for task in reply.tasks]
        request.page_token = reply.next_page_token
        if not reply.next_page_token:
            return found


def every_call(call: Callable[[str], Outcome], reply: type[Redriven | Deleted]) -> int:
    """Make calls until the last; return how many tasks they changed, or counted."""
    changed = 0
    page_token = ""
    for _ in count():
        told = replied(call(page_token), reply)
        changed += told.redriven if isinstance(told, Redriven) else told.deleted
        page_token = told.next_page_token
        if not page_token:
            break
    return changed


def of_all_kinds(queue: LoneQueue) -> list[str]:
    """Dead letters of each type and error, an hour apart; the last one has expired."""
    names = []
    for task_type in TYPES:
        for name, error in ERRORS.items():
            names.append(f"{task_type}-{name}")
            dies(queue, names[-1], task_type, error)
            queue.now_ms += HOUR_MS
    queue.submitted(spec(task_id="late", type="send", expire_at=at(0)))
    queue.wait(0)
    return [*names, "late"]


CHOICES: dict[str, tuple[Filter, Callable[[str], bool]]] = {
    "nothing is chosen": (Filter(), lambda _: True),
    "type": (Filter(type="send"), lambda name: name.startswith("send") or name == "late"),
    "error": (Filter(error="Connection"), lambda name: "-re" in name),
    "error, as it is written": (Filter(error="connection"), lambda _: False),
    "error, not ASCII": (Filter(error="ä"), lambda name: "-value" in name),
    "reason": (Filter(reason=EXPIRED), lambda name: name == "late"),
    "type and error": (
        Filter(type="resize", error="reset"),
        lambda name: name == "resize-reset",
    ),
    "after": (
        Filter(failed_after=at(6 * HOUR_MS)),
        lambda name: name.startswith("resize") or name == "late",
    ),
    "before": (Filter(failed_before=at(3 * HOUR_MS)), lambda name: name.startswith("send-")),
    "between": (
        Filter(failed_after=at(3 * HOUR_MS), failed_before=at(6 * HOUR_MS)),
        lambda name: name.startswith("sent"),
    ),
    "an empty time": (Filter(failed_after=at(2), failed_before=at(1)), lambda _: False),
}


@pytest.mark.parametrize("page_size", [0, 1, 2])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_list_has_those_to_which_all_of_the_filter_applies(choice: str, page_size: int) -> None:
    queue = LoneQueue()
    names = of_all_kinds(queue)
    chosen, right = CHOICES[choice]

    assert listed(queue, chosen, page_size) == [name for name in reversed(names) if right(name)]


@pytest.mark.parametrize("max_tasks", [0, 1, 2])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_redrive_counts_first_and_takes_the_chosen_ones(choice: str, max_tasks: int) -> None:
    queue = LoneQueue()
    names = of_all_kinds(queue)
    chosen, right = CHOICES[choice]
    wanted = {name for name in names if right(name)}

    def call(page_token: str, *, dry_run: bool) -> Outcome:
        return queue.redrive(
            queue="default",
            max_tasks=max_tasks,
            page_token=page_token,
            chosen=chosen,
            dry_run=dry_run,
        )

    before = len(queue.entries)
    assert every_call(lambda token: call(token, dry_run=True), Redriven) == len(wanted)
    assert len(queue.entries) == before
    assert every_call(lambda token: call(token, dry_run=False), Redriven) == len(wanted)
    assert {name for name in names if queue.state(name) == "PENDING"} == wanted


@pytest.mark.parametrize("max_tasks", [0, 1, 2])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_deletion_counts_first_and_takes_the_chosen_ones(choice: str, max_tasks: int) -> None:
    queue = LoneQueue()
    names = of_all_kinds(queue)
    chosen, right = CHOICES[choice]
    wanted = {name for name in names if right(name)}

    def call(page_token: str, *, dry_run: bool) -> Outcome:
        return queue.delete(
            queue="default",
            max_tasks=max_tasks,
            page_token=page_token,
            chosen=chosen,
            dry_run=dry_run,
        )

    assert every_call(lambda token: call(token, dry_run=True), Deleted) == len(wanted)
    assert all(queue.exists(name) for name in names)
    assert every_call(lambda token: call(token, dry_run=False), Deleted) == len(wanted)
    assert {name for name in names if not queue.exists(name)} == wanted


def test_a_call_takes_no_more_than_it_was_told_to() -> None:
    queue = LoneQueue()
    of_all_kinds(queue)
    chosen = Filter(error="Connection")

    deleted = replied(queue.delete(queue="default", max_tasks=2, chosen=chosen), Deleted)
    redriven = replied(queue.redrive(queue="default", max_tasks=3, chosen=chosen), Redriven)

    assert (deleted.deleted, redriven.redriven) == (2, 3)
    assert deleted.next_page_token
    assert redriven.next_page_token


def test_a_call_looks_at_a_thousand_and_goes_on_behind_them() -> None:
    queue = LoneQueue(audited=False)
    for _ in range(3):
        queue.submitted(*[spec(type="bad", expire_at=at(0)) for _ in range(500)])
        queue.wait(1)
    queue.submitted(spec(task_id="good", type="good", expire_at=at(0)))
    queue.wait(1)

    first = replied(queue.redrive(queue="default", chosen=Filter(type="good")), Redriven)
    assert (first.redriven, bool(first.next_page_token)) == (0, True)
    page_token = first.next_page_token
    outcome = queue.redrive(queue="default", chosen=Filter(type="good"), page_token=page_token)
    last = replied(outcome, Redriven)
    assert (last.redriven, last.next_page_token) == (1, "")


def test_a_token_belongs_to_its_filter() -> None:
    queue = LoneQueue()
    of_all_kinds(queue)
    first = replied(
        queue.redrive(queue="default", max_tasks=1, chosen=Filter(type="send")), Redriven
    )

    for chosen in (None, Filter(), Filter(type="sent")):
        again = queue.redrive(queue="default", page_token=first.next_page_token, chosen=chosen)
        assert reason(again) == "INVALID_ARGUMENT"


def test_what_dies_again_meanwhile_is_not_taken_again() -> None:
    queue = LoneQueue()
    for number in range(4):
        dies(queue, f"t{number}", "send", "ConnectionError")
    queue.now_ms += 1
    redriven = 0
    page_token = ""
    for _ in range(10):
        outcome = queue.redrive(
            queue="default", max_tasks=1, page_token=page_token, chosen=Filter(error="Conn")
        )
        told = replied(outcome, Redriven)
        redriven += told.redriven
        queue.now_ms += 1
        for task in queue.claimed(9):
            queue.fail(task, "ConnectionError", permanent=True)
        page_token = told.next_page_token
        if not page_token:
            break

    assert redriven == 4


def test_tasks_that_failed_with_another_are_passed_over_and_counted_by_none() -> None:
    queue = LoneQueue()
    dies(queue, "parent", "send", "ConnectionError")
    queue.submitted(spec(task_id="child", depends_on=[task_pb2.Dependency(task_id="parent")]))
    assert queue.state("child") == "FAILED"
    by_dependency = Filter(reason=task_pb2.FAILURE_REASON_DEPENDENCY)

    assert listed(queue, by_dependency) == ["child"]
    for dry_run in (True, False):
        outcome = queue.redrive(queue="default", chosen=by_dependency, dry_run=dry_run)
        assert replied(outcome, Redriven).redriven == 0


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        (Filter(type="a b"), "filter.type"),
        (Filter(error="ä" * (FILTER_ERROR_BYTES_MAX // 2) + "x"), "filter.error"),
        (Filter(reason=99), "filter.reason"),  # type: ignore[arg-type]  # as other stubs may send
        (Filter(failed_after=at(-1_760_000_001_000)), "filter.failed_after"),
    ],
)
def test_a_filter_that_can_match_nothing_is_refused_by_its_field(
    chosen: Filter, field: str
) -> None:
    queue = LoneQueue()
    queue.configure()
    request = queue_service_pb2.ListDeadLettersRequest(filter=chosen)
    for outcome in (
        queue.redrive(queue="default", chosen=chosen),
        queue.delete(queue="default", chosen=chosen),
        in_one_go(queue.scope(), list_dead_letters, request),
    ):
        assert isinstance(outcome, Refused)
        assert (reason(outcome), outcome.field) == ("INVALID_ARGUMENT", field)


def test_ids_take_no_filter_and_no_dry_run() -> None:
    queue = LoneQueue()
    for call in (queue.redrive, queue.delete):
        for outcome, field in (
            (call("a", chosen=Filter(type="t")), "filter"),
            (call("a", dry_run=True), "dry_run"),
        ):
            assert isinstance(outcome, Refused)
            assert outcome.field == field


def test_a_repeated_call_with_a_filter_answers_alike() -> None:
    queue = LoneQueue()
    of_all_kinds(queue)
    first = queue.redrive(queue="default", chosen=Filter(type="send"), request_id="r")
    assert queue.redrive(queue="default", chosen=Filter(type="send"), request_id="r") == first
    other = queue.redrive(queue="default", chosen=Filter(type="sent"), request_id="r")
    assert reason(other) == "REQUEST_ID_REUSED"
    counted = queue.redrive(
        queue="default", chosen=Filter(type="sent"), dry_run=True, request_id="d"
    )
    assert replied(counted, Redriven).redriven == 3
    replied(queue.redrive(queue="default", chosen=Filter(type="sent"), request_id="d"), Redriven)


def test_random_filters_choose_what_a_plain_loop_chooses() -> None:
    draw = random.Random(5)
    queue = LoneQueue(audited=False)
    kept: list[tuple[str, str, str, int]] = []
    for number in range(60):
        task_type, error = draw.choice(TYPES), draw.choice([*ERRORS.values()])
        dies(queue, f"t{number}", task_type, error)
        kept.append((f"t{number}", task_type, error, queue.now_ms))
        queue.now_ms += draw.choice([0, 0, 1, 50])
    start_ms = kept[0][3]
    for _ in range(200):
        task_type = draw.choice(["", *TYPES])
        error = draw.choice(["", "Conn", "reset", "Value"])
        since, until = draw.randrange(0, 900), draw.randrange(0, 900)
        chosen = Filter(type=task_type, error=error, failed_after=at(since))
        if draw.random() < 0.5:
            chosen.failed_before.CopyFrom(at(until))
        else:
            until = 1 << 40
        right = [
            name
            for name, its_type, its_error, at_ms in reversed(kept)
            if task_type in ("", its_type)
            and error in its_error
            and since <= at_ms - start_ms < until
        ]
        assert sorted(listed(queue, chosen, draw.choice([0, 3]))) == sorted(right)
        outcome = queue.redrive(queue="default", chosen=chosen, dry_run=True)
        assert replied(outcome, Redriven).redriven == len(right)
