"""Tasks that wait for others: submitting them, looking at them, redriving and deleting them."""

from __future__ import annotations

import grpc
import pytest

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, refuse
from tq.v1 import task_pb2
from tq_client import After

_STATUS = task_pb2.DependencyStatus
OPEN, HOLDS, BROKEN = _STATUS.STATUS_OPEN, _STATUS.STATUS_HOLDS, _STATUS.STATUS_BROKEN


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("charge-7", After("charge-7")),
        ("charge-7:completed", After("charge-7")),
        ("charge-7:not-completed", After("charge-7", "not_completed")),
        ("charge-7:not_completed", After("charge-7", "not_completed")),
        ("charge-7:ENDED", After("charge-7", "ended")),
        ("charge-7:completed:skip", After("charge-7", "completed", "skip")),
        ("charge-7:not-completed:fail", After("charge-7", "not_completed", "fail")),
        ("shop:charge:7", After("shop:charge:7")),
        ("shop:charge:7:ended", After("shop:charge:7", "ended")),
        ("a:ended:completed", After("a:ended", "completed")),
        ("a:skip", After("a:skip")),
    ],
)
def test_after_takes_an_id_that_may_have_colons_and_how_it_has_to_end(
    admin: Admin, broker: FakeBroker, typed: str, expected: After
) -> None:
    ran = admin("submit", "q", "t", "--id", "t1", "--after", typed)

    assert ran.code == 0, ran.stderr
    assert list(map(After.of, broker.tasks["t1"].spec.depends_on)) == [expected]


def test_several_tasks_are_waited_for_and_not_all_of_them_needed(
    admin: Admin, broker: FakeBroker
) -> None:
    several = ("--after", "a", "--after", "b:ended", "--depends-on", "c")

    assert admin("submit", "q", "t", "--id", "t1", *several, "--need", "2").code == 0

    spec = broker.tasks["t1"].spec
    assert [each.task_id for each in spec.depends_on] == ["a", "b", "c"]
    assert spec.need == 2


def test_an_empty_id_is_wrong_usage(admin: Admin, broker: FakeBroker) -> None:
    ran = admin("submit", "q", "t", "--after", "")

    assert ran.code == 2
    assert "is not ID[:CONDITION[:OTHERWISE]], as in charge-7:ended" in flat(ran.stderr)
    assert not broker.submits


def test_a_circle_is_refused_with_what_to_do(admin: Admin, broker: FakeBroker) -> None:
    def refuse_it(context: grpc.ServicerContext) -> None:
        refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "CYCLE", "a → b → a", field="tasks[0]")

    broker.before = refuse_it

    ran = admin("submit", "q", "t")

    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.splitlines() == [
        "tq-admin: cannot submit to queue q: CYCLE: a → b → a (field tasks[0])",
        "Nothing was created. Leave one of these dependencies out.",
    ]


def flat(text: str) -> str:
    """The text without the lines of a frame."""
    return " ".join(text.replace("│", " ").split())


def depend(broker: FakeBroker, task_id: str, *statuses: tuple[str, int, int]) -> task_pb2.Task:
    """Say what became of dependencies: task, status and the state of that task."""
    task = broker.tasks[task_id]
    for name, status, state in statuses:
        task.spec.depends_on.add(task_id=name)
        task.dependencies.add(task_id=name, status=status, state=state)
    return task


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_status_shows_what_a_blocked_task_waits_for(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t", "--id", "index")
    task = depend(
        broker,
        "index",
        ("a.png", HOLDS, task_pb2.TASK_STATE_COMPLETED),
        ("b.png", OPEN, task_pb2.TASK_STATE_RUNNING),
        ("c.png", OPEN, task_pb2.TASK_STATE_PENDING),
    )
    task.state, task.spec.need = task_pb2.TASK_STATE_BLOCKED, 2
    task.spec.depends_on[2].condition = task_pb2.Dependency.CONDITION_ENDED

    ran = admin("status", "index")

    assert ran.code == 0, ran.stderr
    shown = rows(ran.stdout)
    assert ["needs", "2", "of", "3"] in shown
    assert "why it waits for 1 of 2 tasks; the first is b.png, which is RUNNING" in flat(ran.stdout)
    assert shown[-4:] == [
        ["DEPENDS", "ON", "CONDITION", "OTHERWISE", "IT", "IS", "DEPENDENCY"],
        ["b.png", "completed", "fail", "RUNNING", "OPEN"],
        ["c.png", "ended", "-", "PENDING", "OPEN"],
        ["a.png", "completed", "fail", "COMPLETED", "HOLDS"],
    ]


def test_status_names_the_task_that_ended_this_one(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t", "--id", "refund")
    task = depend(broker, "refund", ("charge", BROKEN, task_pb2.TASK_STATE_COMPLETED))
    task.spec.depends_on[0].condition = task_pb2.Dependency.CONDITION_NOT_COMPLETED
    task.state = task_pb2.TASK_STATE_CANCELLED
    task.cancel_reason, task.ended_by = task_pb2.CANCEL_REASON_SKIPPED, "charge"

    ran = admin("status", "refund")

    shown = rows(ran.stdout)
    assert ["cancelled", "SKIPPED"] in shown
    assert ["ended", "by", "charge"] in shown
    why = "why it was skipped, as it depends on the failure of task charge, which is COMPLETED"
    assert why in flat(ran.stdout)
    assert shown[-1] == ["charge", "not", "completed", "skip", "COMPLETED", "BROKEN"]
    data = admin("status", "refund", "-o", "json").json
    assert (data["cancel_reason"], data["ended_by"]) == ("SKIPPED", "charge")
    assert data["spec"]["depends_on"] == [
        {"task_id": "charge", "condition": "NOT_COMPLETED", "otherwise": "UNSPECIFIED"}
    ]
    assert data["dependencies"] == [{"task_id": "charge", "status": "BROKEN", "state": "COMPLETED"}]


def test_many_dependencies_are_a_screenful_with_the_open_ones_first(
    admin: Admin, broker: FakeBroker
) -> None:
    admin("submit", "q", "t", "--id", "index")
    done = [(f"t{each}", HOLDS, task_pb2.TASK_STATE_COMPLETED) for each in range(30)]
    late = [(f"late-{each}", OPEN, task_pb2.TASK_STATE_RUNNING) for each in range(2)]
    depend(broker, "index", *done, *late, ("gone", 0, 0)).state = task_pb2.TASK_STATE_BLOCKED

    shown = rows(admin("status", "index").stdout)

    first = shown.index(["DEPENDS", "ON", "CONDITION", "OTHERWISE", "IT", "IS", "DEPENDENCY"]) + 1
    assert [row[0] for row in shown[first : first + 3]] == ["late-0", "late-1", "t0"]
    assert len(shown[first:]) == 21
    assert " ".join(shown[-1]) == "and 13 more: 12 hold"
    assert len(admin("status", "index", "-o", "json").json["dependencies"]) == 33


def test_a_task_that_was_submitted_and_waited_for_says_which_other_one_failed(
    admin: Admin, broker: FakeBroker
) -> None:
    admin("submit", "q", "t", "--id", "index")
    task = depend(broker, "index", ("a.png", BROKEN, task_pb2.TASK_STATE_FAILED))
    task.state, task.ended_by = task_pb2.TASK_STATE_FAILED, "a.png"
    task.failure_reason = task_pb2.FAILURE_REASON_DEPENDENCY

    ran = admin("dead-letters", "show", "index")

    assert ran.code == 0
    why = "it never ran, as it depends on the success of task a.png, which is FAILED"
    assert why in flat(ran.stdout)
    assert ran.stderr.splitlines() == [
        "It waits again once task a.png is tried: tq-admin retry a.png",
        "Forget it: tq-admin dead-letters delete index",
    ]


def fail(admin: Admin, broker: FakeBroker, *task_ids: str) -> None:
    for task_id in task_ids:
        admin("submit", "q", "t", "--id", task_id)
        broker.tasks[task_id].state = task_pb2.TASK_STATE_FAILED


LET_GO = "task refund was let go because this one failed; with force it stays as it is"


@pytest.mark.parametrize("command", [("dead-letters", "redrive"), ("retry",)])
def test_a_redrive_says_why_it_left_a_task_and_takes_it_by_force(
    admin: Admin, broker: FakeBroker, command: tuple[str, ...]
) -> None:
    fail(admin, broker, "a", "charge")
    broker.needed["charge"] = LET_GO

    refused = admin(*command, "a", "charge")
    forced = admin(*command, "--force", "charge", "-o", "json")

    assert refused.code == 1
    assert rows(refused.stdout) == [
        ["redriven", "1"],
        ["skipped", "1"],
        ["charge"],
        ["HAS_DEPENDENTS:", *LET_GO.split()],
    ]
    assert refused.stderr.splitlines() == [
        "tq-admin: left as they are: charge",
        "Redrive it all the same with --force: what was let go stays as it is.",
    ]
    assert (forced.code, forced.json["redriven"], forced.json["skipped"]) == (0, 1, [])
    assert [request.force for request in broker.redrives] == [False, True]


def test_a_redrive_of_a_queue_says_that_some_are_left(admin: Admin, broker: FakeBroker) -> None:
    fail(admin, broker, "a", "charge")
    broker.needed["charge"] = LET_GO

    some = admin("dead-letters", "redrive", "--queue", "q")
    all_of_them = admin("dead-letters", "redrive", "--queue", "q", "--force", "-o", "json")

    assert (some.code, some.stdout.split()) == (0, ["redriven", "1"])
    assert some.stderr.startswith("Dead letters that are left: 1. They failed only because ")
    assert (all_of_them.json["redriven"], all_of_them.stderr) == (1, "")


def test_tasks_that_failed_with_others_are_not_redriven_by_that_reason(
    admin: Admin, broker: FakeBroker
) -> None:
    ran = admin("dead-letters", "redrive", "--reason", "dependency")

    assert ran.code == 2
    assert "redrive those, and these wait again" in flat(ran.stderr)
    assert not broker.redrives


def test_a_redrive_by_reason_names_only_those_that_have_dependents(
    admin: Admin, broker: FakeBroker
) -> None:
    fail(admin, broker, "charge")
    broker.tasks["charge"].failure_reason = task_pb2.FAILURE_REASON_PERMANENT_ERROR
    broker.needed["charge"] = LET_GO

    ran = admin("dead-letters", "redrive", "--reason", "permanent_error", "-o", "json")

    assert (ran.code, ran.json["skipped_task_ids"]) == (1, ["charge"])


def test_a_dead_letter_that_others_need_is_not_deleted(admin: Admin, broker: FakeBroker) -> None:
    fail(admin, broker, "a", "charge")
    broker.needed["charge"] = "task refund depends on it, and may still need it"

    named = admin("dead-letters", "delete", "charge", "nope", "--yes")
    of_queue = admin("dead-letters", "delete", "--queue", "q", "--yes")

    assert named.code == 1
    assert "charge HAS_DEPENDENTS: task refund depends on it, and may" in flat(named.stdout)
    assert "nope NOT_FOUND: there is no task 'nope'" in flat(named.stdout)
    assert "left as they are: charge, nope" in named.stderr
    assert "Try again once those tasks have ended, or cancel them" in named.stderr
    assert list(broker.tasks) == ["charge"]
    assert of_queue.code == 0
    assert "1 are left, or were gone" in of_queue.stderr
    assert "tq-admin dead-letters delete TASK_ID names it" in of_queue.stderr


def test_many_skipped_tasks_are_a_screenful(admin: Admin) -> None:
    names = [f"t{each}" for each in range(25)]

    ran = admin("retry", *names)

    assert flat(ran.stdout).endswith("and 5 more")
    assert "t19, and 5 more" in ran.stderr
    assert len(admin("retry", *names, "-o", "json").json["skipped"]) == 25


def test_a_purge_counts_the_blocked_tasks_that_it_cancels(
    admin: Admin, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin("submit", "q", "t", "--id", "a")
    broker.tasks["a"].state = task_pb2.TASK_STATE_BLOCKED
    monkeypatch.setattr("tq_admin.confirm.somebody_is_there", lambda: True)

    ran = admin("purge", "q", stdin="y\n")

    assert "Cancel the 1 tasks that wait in queue q (0 pending, 0 scheduled, 0 retrying, 1 bl" in (
        flat(ran.stderr)
    )
    assert broker.tasks["a"].state == task_pb2.TASK_STATE_CANCELLED
