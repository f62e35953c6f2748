"""Tasks that wait for other tasks: what releases and what ends them, what a redrive undoes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError

from tests.core.lone_queue import LoneQueue, at, reason, replied, span, spec
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2
from tq_cluster.core.model.operations import Continue, EndLeases, Refused
from tq_cluster.core.rows import rows, tables

Dependency = task_pb2.Dependency
NOT_COMPLETED = Dependency.CONDITION_NOT_COMPLETED
ENDED = Dependency.CONDITION_ENDED
SKIP = Dependency.OTHERWISE_SKIP
FAIL = Dependency.OTHERWISE_FAIL


def after(*names: str, **how: int) -> list[task_pb2.Dependency]:
    return [Dependency(task_id=name, **how) for name in names]  # type: ignore[arg-type]  # as above


def run(queue: LoneQueue, name: str, end: str = "complete") -> None:
    """Let the one ready task of this name end so."""
    [task] = [each for each in queue.claimed(100) if each.spec.task_id == name]
    if end == "complete":
        queue.complete(task)
    else:
        queue.fail(task, permanent=True)


def states(queue: LoneQueue, *names: str) -> list[str]:
    return [queue.state(name) for name in names]


def test_a_task_starts_once_all_that_it_depends_on_have_completed() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"), spec(task_id="b"))
    queue.submitted(spec(task_id="c", depends_on=after("a", "b")))
    first, second = queue.claimed(5)

    queue.complete(first)
    assert states(queue, "c") == ["BLOCKED"]
    assert queue.stats().blocked == 1
    queue.complete(second)

    assert queue.claimed_ids() == ["c"]
    assert queue.stats().blocked == 0


def test_a_chain_goes_on_in_the_entry_of_each_completion() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="a"),
        spec(task_id="b", depends_on=[Dependency(item=0)]),
        spec(task_id="c", depends_on=[Dependency(item=1)]),
    )
    for name in "abc":
        before = len(queue.entries)
        run(queue, name)
        assert len(queue.entries) == before + 2, "one for the claim, one for the completion"


@pytest.mark.parametrize(
    ("condition", "otherwise", "end", "expected"),
    [
        (0, 0, "complete", ("PENDING", "")),
        (0, 0, "fail", ("FAILED", "DEPENDENCY")),
        (0, 0, "cancel", ("CANCELLED", "DEPENDENCY")),
        (0, SKIP, "fail", ("CANCELLED", "SKIPPED")),
        (NOT_COMPLETED, 0, "fail", ("PENDING", "")),
        (NOT_COMPLETED, 0, "cancel", ("PENDING", "")),
        (NOT_COMPLETED, 0, "complete", ("CANCELLED", "SKIPPED")),
        (NOT_COMPLETED, FAIL, "complete", ("FAILED", "DEPENDENCY")),
        (ENDED, 0, "complete", ("PENDING", "")),
        (ENDED, 0, "fail", ("PENDING", "")),
        (ENDED, 0, "cancel", ("PENDING", "")),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_the_condition_decides_whether_an_end_releases_or_ends(
    condition: Dependency.Condition.ValueType,
    otherwise: Dependency.Otherwise.ValueType,
    end: str,
    expected: tuple[str, str],
    *,
    late: bool,
) -> None:
    """``late``: the parent has ended before its dependent is submitted."""
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"))
    child = spec(task_id="b", depends_on=after("a", condition=condition, otherwise=otherwise))
    if not late:
        queue.submitted(child)
    if end == "cancel":
        queue.cancel("a")
    else:
        run(queue, "a", end)
    if late:
        queue.submitted(child)

    task = queue.task("b")
    why = ""
    if task.failure_reason:
        why = task_pb2.FailureReason.Name(task.failure_reason).removeprefix("FAILURE_REASON_")
    if task.cancel_reason:
        why = task_pb2.CancelReason.Name(task.cancel_reason).removeprefix("CANCEL_REASON_")
    assert (queue.state("b"), why) == expected
    assert task.ended_by == ("a" if why else "")


def test_what_depends_on_a_skipped_task_starts() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="charge"),
        spec(task_id="refund", depends_on=after("charge", condition=NOT_COMPLETED)),
        spec(task_id="tell", depends_on=after("refund")),
        spec(task_id="complain", depends_on=after("refund", condition=NOT_COMPLETED)),
    )
    run(queue, "charge")

    assert states(queue, "refund", "tell", "complain") == ["CANCELLED", "PENDING", "CANCELLED"]


def test_a_failure_goes_down_a_deep_chain_in_slices() -> None:
    queue = LoneQueue()
    count = 60
    chain = [spec(task_id="t0")]
    chain += [
        spec(task_id=f"t{each}", depends_on=after(f"t{each - 1}")) for each in range(1, count)
    ]
    queue.submitted_together(*chain)
    run(queue, "t0", "fail")
    assert queue.state(f"t{count - 1}") == "BLOCKED", "an entry's work is bounded"

    queue.go_on()

    assert {queue.state(f"t{each}") for each in range(count)} == {"FAILED"}
    assert queue.task(f"t{count - 1}").ended_by == f"t{count - 2}"


def test_many_dependents_are_released_in_slices_and_take_turns() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"), spec(task_id="b"))
    queue.submitted(*(spec(task_id=f"a{each}", depends_on=after("a")) for each in range(100)))
    queue.submitted(*(spec(task_id=f"b{each}", depends_on=after("b")) for each in range(20)))
    tasks = queue.claimed(2)
    for task in tasks:
        queue.complete(task)

    queue.decide(Continue(items_max=70, caller=queue.caller))
    assert queue.stats().blocked == 120 - 32 - 64 - 4 - 2, "the small one had its turn"
    queue.go_on()

    assert queue.stats().blocked == 0
    assert queue.stats().pending == 120


def test_need_says_how_many_have_to_hold() -> None:
    queue = LoneQueue()
    queue.submitted(*(spec(task_id=each) for each in "abc"))
    queue.submitted(spec(task_id="two", depends_on=after("a", "b", "c"), need=2))
    queue.submitted(spec(task_id="any", depends_on=after("a", "b", "c"), need=1))
    a, b, c = queue.claimed(3)

    queue.fail(a, permanent=True)
    assert states(queue, "two", "any") == ["BLOCKED", "BLOCKED"]
    queue.complete(b)
    assert states(queue, "two", "any") == ["BLOCKED", "PENDING"]
    queue.complete(c)
    assert states(queue, "two") == ["PENDING"]
    assert [each.status for each in queue.task("any").dependencies] == [3, 2, 1], (
        "what held as it became ready is kept"
    )


def test_too_few_left_ends_it_by_the_last_of_them() -> None:
    queue = LoneQueue()
    queue.submitted(*(spec(task_id=each) for each in "abc"))
    ways = [*after("a"), *after("b", otherwise=SKIP), *after("c")]
    queue.submitted(spec(task_id="two", depends_on=ways, need=2))
    a, b, _ = queue.claimed(3)
    queue.fail(a, permanent=True)
    queue.fail(b, permanent=True)

    assert states(queue, "two") == ["CANCELLED"]
    assert queue.task("two").ended_by == "b"


def test_a_late_task_is_ended_by_the_end_that_would_have_ended_it() -> None:
    queue = LoneQueue()
    queue.submitted(*(spec(task_id=each) for each in "abc"))
    a, b, _ = queue.claimed(3)
    queue.fail(a, permanent=True)
    queue.now_ms += 1
    queue.fail(b, permanent=True)
    ways = [*after("b", otherwise=SKIP), *after("a"), *after("c")]
    queue.submitted(spec(task_id="two", depends_on=ways, need=2))

    assert states(queue, "two") == ["CANCELLED"]
    assert queue.task("two").ended_by == "b"


def test_run_at_holds_beside_the_dependencies() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"))
    queue.submitted(spec(task_id="b", depends_on=after("a"), run_at=at(1_000)))
    run(queue, "a")
    assert states(queue, "b") == ["SCHEDULED"]
    queue.wait(1_000)
    assert states(queue, "b") == ["PENDING"]


def test_a_blocked_task_expires_and_can_be_cancelled_and_purged() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"))
    queue.submitted(spec(task_id="b", depends_on=after("a"), expire_at=at(500)))
    queue.submitted(spec(task_id="c", depends_on=after("b")))
    queue.submitted(spec(task_id="d", depends_on=after("a")))
    queue.submitted(spec(task_id="e", depends_on=after("d")))
    queue.wait(500)
    assert states(queue, "b", "c") == ["FAILED", "FAILED"]
    queue.cancel("d")
    assert states(queue, "d", "e") == ["CANCELLED", "CANCELLED"]
    queue.submitted(spec(task_id="f", depends_on=after("a")))
    queue.purge()
    queue.go_on()
    assert states(queue, "a", "f") == ["CANCELLED", "CANCELLED"]


# ---------------------------------------------------------------- calls that are refused


def test_a_dependency_on_a_missing_task_is_refused_by_its_place() -> None:
    queue = LoneQueue()
    outcome = queue.submit_together(
        spec(task_id="a"), spec(depends_on=[*after("a"), *after("nowhere")])
    )
    assert isinstance(outcome, Refused)
    assert reason(outcome) == "NOT_FOUND"
    assert outcome.field == "tasks[1].depends_on[1].task_id"
    assert not queue.exists("a"), "all or none"


def test_tasks_that_wait_for_each_other_are_refused_and_the_circle_is_named() -> None:
    queue = LoneQueue()
    outcome = queue.submit_together(
        spec(task_id="x"),
        spec(task_id="a", depends_on=after("c")),
        spec(task_id="b", depends_on=[Dependency(item=1)]),
        spec(task_id="c", depends_on=after("b")),
        spec(task_id="d", depends_on=after("c")),
    )
    assert isinstance(outcome, Refused)
    assert reason(outcome) == "CYCLE"
    assert outcome.message.endswith("a → b → c → a"), outcome.message
    assert outcome.field == "tasks[1].depends_on"

    alone = queue.submit_together(spec(task_id="a", depends_on=[Dependency(item=0)]))
    assert isinstance(alone, Refused)
    assert alone.message.endswith("a → a")


@pytest.mark.parametrize(
    ("depends_on", "need", "message"),
    [
        ([Dependency()], 0, "depends_on[0] names no task; it takes task_id or item"),
        (after("a", "a"), 0, "depends_on[1] names task_id a a second time"),
        (after("a b"), 0, "depends_on[0].task_id is 'a b'"),
        (
            after("a", condition=9),
            0,
            "depends_on[0].condition is 9; it takes CONDITION_",
        ),
        (after("a"), 2, "need is 2, of 1 in depends_on"),
        ([], 1, "need is 1, of 0 in depends_on"),
        (after(*map(str, range(1_001))), 0, "depends_on has 1001 items; at most 1000 are taken"),
        ([Dependency(item=0)], 0, "depends_on[0].item is taken only if all tasks of the call"),
    ],
)
def test_what_is_wrong_with_a_dependency_is_said(
    depends_on: list[task_pb2.Dependency], need: int, message: str
) -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"))
    outcome = queue.submit(spec(depends_on=depends_on, need=need))

    [result] = replied(outcome, task_service_pb2.SubmitResponse).results
    assert result.error.message.startswith(message), result.error.message


def test_a_repeated_call_answers_the_same() -> None:
    queue = LoneQueue()
    graph = [spec(), spec(depends_on=[Dependency(item=0)])]
    first = queue.submitted_together(*graph, request_id="r")
    assert first == ["r-0", "r-1"]
    before = len(queue.entries)
    assert queue.submitted_together(*graph, request_id="r") == first
    assert len(queue.entries) == before


def test_the_children_of_a_completion_may_depend_on_it_and_on_each_other() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="parent"))
    [task] = queue.claimed()
    queue.complete(
        task,
        submit=[
            spec(task_id="c", depends_on=[Dependency(item=1)]),
            spec(task_id="b", depends_on=after("parent")),
        ],
    )
    assert states(queue, "b", "c") == ["PENDING", "BLOCKED"]
    run(queue, "b")
    assert states(queue, "c") == ["PENDING"]


# ---------------------------------------------------------------- redrive


def redriven(queue: LoneQueue, *names: str, force: bool = False) -> list[str]:
    """Redrive tasks by id, and return why those that were left alone were."""
    outcome = queue.redrive(*names, force=force)
    reply = replied(outcome, queue_service_pb2.RedriveResponse)
    return [each.message for each in reply.skipped]


def test_a_redrive_takes_back_what_failed_with_the_task() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="a"),
        spec(task_id="b", depends_on=after("a")),
        spec(task_id="c", depends_on=after("b")),
        spec(task_id="other"),
        spec(task_id="d", depends_on=after("b", "other")),
    )
    run(queue, "a", "fail")
    assert states(queue, "b", "c", "d") == ["FAILED"] * 3

    assert redriven(queue, "a") == []

    assert states(queue, "a", "b", "c", "d") == ["PENDING", "BLOCKED", "BLOCKED", "BLOCKED"]
    run(queue, "a")
    run(queue, "b")
    assert states(queue, "c", "d") == ["PENDING", "BLOCKED"]


def test_what_failed_with_another_is_not_redriven_itself() -> None:
    queue = LoneQueue()
    queue.submitted_together(spec(task_id="a"), spec(task_id="b", depends_on=after("a")))
    run(queue, "a", "fail")

    [why] = redriven(queue, "b")
    assert "failed because task a is FAILED: redrive that one" in why
    reply = replied(queue.redrive(queue="default"), queue_service_pb2.RedriveResponse)
    assert reply.redriven == 1
    assert states(queue, "a", "b") == ["PENDING", "BLOCKED"]


def test_a_redrive_is_refused_once_the_failure_has_let_another_go() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="charge"),
        spec(task_id="refund", depends_on=after("charge", condition=NOT_COMPLETED)),
    )
    run(queue, "charge", "fail")
    assert states(queue, "refund") == ["PENDING"]

    [why] = redriven(queue, "charge")
    assert "task refund was started or skipped because this one failed" in why
    assert states(queue, "charge", "refund") == ["FAILED", "PENDING"]

    assert redriven(queue, "charge", force=True) == []
    assert states(queue, "charge", "refund") == ["PENDING", "PENDING"]
    run(queue, "charge")
    assert states(queue, "refund") == ["RUNNING"], "forced: it stays as it is"


def test_what_an_earlier_failure_let_go_does_not_forbid_a_later_redrive() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="charge"),
        spec(task_id="refund", depends_on=after("charge", condition=NOT_COMPLETED)),
    )
    run(queue, "charge", "fail")
    run(queue, "refund")
    assert redriven(queue, "charge", force=True) == []
    run(queue, "charge", "fail")

    assert redriven(queue, "charge") == []


def test_a_task_is_taken_back_past_a_parent_that_was_deleted() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="a"),
        spec(task_id="b"),
        spec(task_id="c", depends_on=[*after("a", condition=NOT_COMPLETED), *after("b")]),
        spec(task_id="d", depends_on=after("b", "a")),
    )
    a, b = queue.claimed(2)
    queue.fail(b, permanent=True)
    queue.fail(a, permanent=True)
    assert states(queue, "c", "d") == ["FAILED", "FAILED"]
    queue.delete("a")
    assert not queue.exists("a")

    assert redriven(queue, "b") == []
    assert states(queue, "c", "d") == ["BLOCKED", "FAILED"]
    run(queue, "b")
    assert states(queue, "c", "d") == ["PENDING", "FAILED"]


def test_a_compensation_that_still_waits_for_something_else_waits_again() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="charge"),
        spec(task_id="approval"),
        spec(
            task_id="refund",
            depends_on=[*after("charge", condition=NOT_COMPLETED), *after("approval")],
        ),
    )
    charge, approval = queue.claimed(2)
    queue.fail(charge, permanent=True)
    assert redriven(queue, "charge") == []
    queue.complete(approval)
    assert states(queue, "refund") == ["BLOCKED"], "the charge may still succeed"
    run(queue, "charge")
    assert states(queue, "refund") == ["CANCELLED"]


def test_a_half_done_cascade_is_met_by_a_redrive_and_by_the_next_end() -> None:
    queue = LoneQueue()
    count = 90
    queue.submitted(spec(task_id="a"))
    queue.submitted(*(spec(task_id=f"c{each}", depends_on=after("a")) for each in range(count)))
    run(queue, "a", "fail")
    assert count // 2 < queue.stats().blocked < count
    assert redriven(queue, "a") == []
    run(queue, "a", "fail")
    assert redriven(queue, "a") == []
    queue.go_on(items_max=20)
    assert queue.stats().blocked == count
    run(queue, "a", "complete")
    queue.go_on(items_max=20)
    assert queue.stats().pending == count


def test_a_queue_is_redriven_in_pages_past_what_is_left_alone() -> None:
    queue = LoneQueue()
    for each in range(5):
        queue.submitted_together(
            spec(task_id=f"a{each}"), spec(task_id=f"b{each}", depends_on=after(f"a{each}"))
        )
        run(queue, f"a{each}", "fail")
        queue.now_ms += 1
    total, token, calls = 0, "", 0
    while True:
        outcome = queue.redrive(queue="default", max_tasks=2, page_token=token)
        reply = replied(outcome, queue_service_pb2.RedriveResponse)
        total, token, calls = total + reply.redriven, reply.next_page_token, calls + 1
        if not token:
            break
        assert calls < 20
    assert total == 5
    assert queue.stats().failed == 0


def test_what_waits_for_an_uncertain_end_waits_until_somebody_decides() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="charge"),
        spec(task_id="ship", depends_on=after("charge")),
        spec(task_id="refund", depends_on=after("charge", condition=NOT_COMPLETED)),
    )
    queue.claimed()
    queue.decide(EndLeases(quarantine=True, caller=queue.caller))
    queue.go_on()
    assert queue.task("charge").failure_reason == task_pb2.FAILURE_REASON_UNCERTAIN
    assert states(queue, "ship", "refund") == ["BLOCKED", "BLOCKED"]

    assert redriven(queue, "charge") == []
    run(queue, "charge")
    assert states(queue, "ship", "refund") == ["PENDING", "CANCELLED"]


# ---------------------------------------------------------------- removal


def test_a_task_is_kept_while_another_needs_it() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="a", retention=span(1_000)),
        spec(task_id="b"),
        spec(task_id="c", depends_on=after("a", "b")),
    )
    run(queue, "a")
    queue.wait(5_000)
    queue.remove_retired()
    assert queue.exists("a")

    # ``c`` ends, and with it the need for ``a``.
    queue.cancel("c")
    queue.wait(3_600_000)
    queue.remove_retired()
    assert not queue.exists("a")
    assert queue.exists("c")


def test_a_dead_letter_with_a_waiting_dependent_is_not_deleted() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="a"),
        spec(task_id="b"),
        spec(task_id="c", depends_on=[*after("a", condition=NOT_COMPLETED), *after("b")]),
        spec(task_id="d", depends_on=after("a")),
    )
    run(queue, "a", "fail")
    reply = replied(queue.delete("a"), queue_service_pb2.DeleteDeadLettersResponse)
    assert reply.deleted == 0
    assert "task c depends on it" in reply.skipped[0].message
    queue.cancel("c")
    reply = replied(queue.delete(queue="default"), queue_service_pb2.DeleteDeadLettersResponse)
    assert reply.deleted == 2
    assert not queue.exists("d")


def test_a_task_with_many_ended_dependents_is_removed_in_slices() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a", retention=span(1)))
    queue.submitted(
        *(
            spec(task_id=f"c{each}", depends_on=after("a"), retention=span(10**9))
            for each in range(250)
        )
    )
    queue.purge(max_tasks=1_000)
    queue.go_on()
    queue.wait(1_000)
    queue.remove_retired()
    assert not queue.exists("a")
    assert queue.exists("c0")


# ---------------------------------------------------------------- what slices must not decide


def named(kind: str, count: int, **how: int) -> list[task_pb2.TaskSpec]:
    """Tasks that each wait for one of ``kind``, and for an approval of the same number."""
    return [
        spec(
            task_id=f"r{each}",
            queue="r",
            depends_on=[*after(f"{kind}{each}", **how), *after(f"ok{each}")],
        )
        for each in range(count)
    ]


@pytest.mark.parametrize("condition", [NOT_COMPLETED, ENDED])
def test_nothing_starts_through_a_failure_that_is_redriven_by_now(
    condition: Dependency.Condition.ValueType,
) -> None:
    """The redrive has told some of the tasks that wait, and not yet this one."""
    queue = LoneQueue()
    count = 30
    queue.submitted(*(spec(task_id=f"c{each}") for each in range(count)))
    queue.submitted(*(spec(task_id=f"ok{each}", queue="o") for each in range(count)))
    queue.submitted(*named("c", count, condition=condition))
    for task in queue.claimed(count):
        queue.fail(task, permanent=True)
    queue.go_on()
    approvals = queue.claimed(count, queues=("o",))
    queue.redrive(queue="default")
    queue.complete(approvals[25])

    assert queue.claimed_ids(count, queues=("r",)) == []
    queue.go_on()
    assert states(queue, "c25", "r25") == ["PENDING", "BLOCKED"]


@pytest.mark.parametrize("others", [0, 40])
def test_the_order_of_the_ends_decides_not_that_of_the_slices(others: int) -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a", priority=1), spec(task_id="p"))
    queue.submitted(
        *(spec(task_id=f"x{each}", depends_on=after("a")) for each in range(others)),
        spec(task_id="t", depends_on=[*after("a"), *after("p", otherwise=SKIP)]),
        spec(task_id="behind", depends_on=after("t")),
    )
    a, p = queue.claimed(2)
    queue.fail(a, permanent=True)
    queue.now_ms += 5
    queue.fail(p, permanent=True)
    queue.go_on()

    assert queue.task("t").ended_by == "a"
    assert states(queue, "t", "behind") == ["FAILED", "FAILED"]


def test_what_failed_below_a_redriven_task_lets_nothing_go_before_it_is_taken_back() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"))
    queue.submitted(*(spec(task_id=f"x{each}", depends_on=after("a")) for each in range(60)))
    queue.submitted(spec(task_id="b", depends_on=after("a")))
    queue.submitted(spec(task_id="r", queue="r", depends_on=after("b", condition=NOT_COMPLETED)))
    run(queue, "a", "fail")
    while queue.state("b") == "BLOCKED":
        queue.decide(Continue(items_max=1, caller=queue.caller))
    assert states(queue, "r") == ["BLOCKED"]

    assert redriven(queue, "a") == []
    queue.go_on()

    assert states(queue, "b", "r") == ["BLOCKED", "BLOCKED"]
    run(queue, "a")
    queue.go_on()
    assert states(queue, "b", "r") == ["PENDING", "BLOCKED"]


def test_a_task_that_failed_by_a_success_stays_as_it_ended() -> None:
    """Both its parents end in one millisecond; the later one would have skipped it."""
    queue = LoneQueue()
    queue.submitted(spec(task_id="a"), spec(task_id="b"))
    ways = [*after("a", otherwise=SKIP), *after("b", condition=NOT_COMPLETED, otherwise=FAIL)]
    queue.submitted(spec(task_id="t", depends_on=ways))
    queue.submitted(*(spec(task_id=f"x{each}", depends_on=after("t")) for each in range(40)))
    a, b = queue.claimed(2)
    queue.complete(b)
    queue.fail(a, permanent=True)
    queue.go_on()

    assert states(queue, "t", "x0", "x39") == ["FAILED"] * 3
    assert queue.task("t").ended_by == "b"


def test_a_task_that_never_ran_forbids_no_redrive() -> None:
    queue = LoneQueue()
    queue.submitted_together(
        spec(task_id="a"),
        spec(task_id="b"),
        spec(task_id="t", depends_on=[*after("a", condition=NOT_COMPLETED), *after("b")]),
    )
    a, b = queue.claimed(2)
    queue.fail(a, permanent=True)
    queue.fail(b, permanent=True)
    assert states(queue, "t") == ["FAILED"]

    assert redriven(queue, "a") == []


def test_a_task_that_needs_some_of_many_is_taken_back_through_any_of_them() -> None:
    queue = LoneQueue()
    queue.submitted(*(spec(task_id=each) for each in "abc"))
    queue.submitted(spec(task_id="t", depends_on=after("a", "b", "c"), need=2))
    a, b, c = queue.claimed(3)
    queue.fail(a, permanent=True)
    queue.fail(b, permanent=True)
    queue.complete(c)
    assert states(queue, "t") == ["FAILED"]

    assert redriven(queue, "a") == []
    run(queue, "a")
    assert states(queue, "t") == ["PENDING"]


def test_a_task_whose_parent_was_deleted_is_said_to_be_lost() -> None:
    queue = LoneQueue()
    queue.submitted_together(spec(task_id="a"), spec(task_id="b", depends_on=after("a")))
    run(queue, "a", "fail")
    queue.delete("a")

    [why] = redriven(queue, "b", force=True)
    assert "deleted meanwhile: it cannot run any more" in why


def test_a_deletion_that_is_refused_changes_nothing_also_when_it_is_repeated() -> None:
    queue = LoneQueue()
    count = 101
    queue.submitted(spec(task_id="a"))
    queue.submitted(*(spec(task_id=f"b{each}", depends_on=after("a")) for each in range(count)))
    run(queue, "a", "fail")
    queue.go_on()
    first = queue.delete("a", "b0", request_id="r")
    before = len(queue.entries)
    assert queue.delete("a", "b0", request_id="r") == first
    assert len(queue.entries) == before

    assert redriven(queue, "a") == []
    queue.go_on()
    run(queue, "a")
    queue.go_on()
    assert queue.stats().pending == count - 1


def test_a_repeated_submit_says_again_what_was_missing() -> None:
    queue = LoneQueue()
    batch = [spec(task_id="good"), spec(task_id="x", depends_on=after("missing"))]
    first = queue.submit(*batch, request_id="r")
    assert queue.submit(*batch, request_id="r") == first
    reply = replied(first, task_service_pb2.SubmitResponse)
    assert reply.results[1].error.field == "depends_on[0].task_id"


def test_a_redrive_by_ids_has_a_bound_and_names_the_rest() -> None:
    queue = LoneQueue(audited=False)
    parents = queue.submitted(*(spec(priority=1) for _ in range(1_000)))
    first, *_ = queue.claimed(1_000)
    waits = [spec(depends_on=after(*parents)) for _ in range(10)]
    children = queue.submitted(*waits)
    queue.fail(first, permanent=True)
    queue.go_on()
    everything = [first.spec.task_id, *children]
    outcome = queue.redrive(*everything)
    reply = replied(outcome, queue_service_pb2.RedriveResponse)

    assert 1 <= reply.redriven < len(everything)
    assert list(reply.remaining_task_ids) == everything[reply.redriven :]


def test_a_chain_past_its_retention_goes_in_one_sweep() -> None:
    queue = LoneQueue()
    count = 40
    chain = [spec(task_id="t0", retention=span(1_000))]
    chain += [
        spec(task_id=f"t{each}", retention=span(1_000), depends_on=after(f"t{each - 1}"))
        for each in range(1, count)
    ]
    queue.submitted_together(*chain)
    run(queue, "t0", "fail")
    queue.go_on()
    queue.now_ms += 2_000
    queue.remove_retired()
    queue.now_ms += 3_600_000
    queue.remove_retired()

    assert not any(queue.exists(f"t{each}") for each in range(count))


def test_a_row_at_fault_is_set_aside_alone() -> None:
    queue = LoneQueue(audited=False)
    queue.submitted(spec(task_id="k"))
    queue.submitted(*(spec(task_id=f"d{each}", depends_on=after("k")) for each in range(40)))
    queue.submitted(spec(task_id="p", depends_on=after("d30")))
    scope = queue.scope()
    number = rows.find_task_number(scope.view, scope.prefix, "p")
    assert number is not None
    queue.overwrite(tables.TASKS, tables.number_key(scope.prefix, number), b"\xff\xff")
    run(queue, "k", "fail")
    passed_over: frozenset[int] = frozenset()
    for _ in range(200):
        found = queue.store.view().scan(
            tables.CONTINUATIONS, scope.prefix, tables.end_of(scope.prefix), limit=100
        )
        turns = [tables.split_number(key) for key, _ in found]
        todo = [turn for turn in turns if turn not in passed_over]
        if not todo:
            break
        try:
            queue.decide(Continue(items_max=1, passed_over=passed_over, caller=queue.caller))
        except DecodeError:
            passed_over |= {todo[0]}

    assert len(passed_over) == 1
    assert {queue.state(f"d{each}") for each in range(40)} == {"FAILED"}
