"""Queues and dead letters."""

from __future__ import annotations

import grpc
import pytest

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, refuse
from tq.v1 import task_pb2
from tq.v1.queue_service_pb2 import QueueSettings


def test_queues_are_listed_with_their_counts(admin: Admin) -> None:
    admin("submit", "b", "t")
    admin("submit", "a", "t")
    admin("submit", "a", "t")

    ran = admin("queues", "list", "-o", "json")

    assert [(queue["queue"], queue["pending"]) for queue in ran.json] == [("a", 2), ("b", 1)]
    assert "PENDING" in admin("queues", "list").stdout


def test_a_queue_that_does_not_exist_cannot_be_shown(admin: Admin) -> None:
    ran = admin("queues", "show", "nope")

    assert ran.code == 1
    assert "NOT_FOUND" in ran.stderr


def test_pausing_and_resuming_keep_the_other_settings(admin: Admin, broker: FakeBroker) -> None:
    configured = admin("queues", "configure", "q", "--ordering", "aging", "--aging", "2s")
    assert configured.code == 0

    admin("queues", "pause", "q")
    paused = QueueSettings(ordering=QueueSettings.ORDERING_AGING, paused=True)
    paused.aging.FromSeconds(2)
    assert broker.settings["q"] == paused
    assert "paused" in admin("queues", "list").stdout

    admin("queues", "resume", "q")
    assert not broker.settings["q"].paused
    assert broker.settings["q"].ordering == QueueSettings.ORDERING_AGING
    assert broker.masks == [["ordering", "aging"], ["paused"], ["paused"]]


@pytest.mark.parametrize(
    "command",
    ["queues pause typo", "queues resume typo", "queues delete typo", "list --queue typo"],
)
def test_a_queue_that_is_not_there_is_not_created_by_looking_after_it(
    admin: Admin, broker: FakeBroker, command: str
) -> None:
    admin("submit", "real", "t")

    ran = admin(*command.split())

    assert (ran.code, ran.stdout) == (1, "")
    assert "NOT_FOUND: no queue typo" in ran.stderr
    assert "typo" not in broker.settings
    assert admin("list", "--queue", "real", "--state", "failed").code == 0


def test_configuring_nothing_is_a_mistake(admin: Admin, broker: FakeBroker) -> None:
    assert admin("queues", "configure", "q").code == 2
    assert broker.settings == {}


def test_a_queue_is_deleted_if_it_holds_nothing(admin: Admin, broker: FakeBroker) -> None:
    admin("queues", "configure", "unused", "--ordering", "aging")
    admin("submit", "used", "t")

    deleted = admin("queues", "delete", "unused", "-o", "json")
    refused = admin("queues", "delete", "used")

    assert (deleted.code, deleted.json) == (0, {"deleted": "unused"})
    assert "unused" not in broker.settings
    assert (refused.code, refused.stdout) == (1, "")
    assert "QUEUE_IN_USE" in refused.stderr
    assert "tq-admin list --queue" in refused.stderr


def fail(broker: FakeBroker, *task_ids: str) -> None:
    for task_id in task_ids:
        broker.tasks[task_id].state = task_pb2.TASK_STATE_FAILED
        broker.tasks[task_id].failure_reason = task_pb2.FAILURE_REASON_PERMANENT_ERROR
        broker.tasks[task_id].last_error = "no such image\nat line 3"


def test_dead_letters_are_listed_with_their_last_error(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t", "--id", "a")
    admin("submit", "q", "t", "--id", "b")
    fail(broker, "a")

    [letter] = admin("dead-letters", "list", "-o", "json").json
    assert letter["spec"]["task_id"] == "a"
    table = admin("dead-letters", "list").stdout
    assert "PERMANENT_ERROR" in table
    assert "no such image" in table


def test_redriving_a_queue_stops_when_nothing_is_left(admin: Admin, broker: FakeBroker) -> None:
    for name in ("a", "b", "c"):
        admin("submit", "q", "t", "--id", name)
    fail(broker, "a", "b", "c")

    assert admin("dead-letters", "redrive", "--queue", "q", "-o", "json").json["redriven"] == 3
    assert broker.tasks["b"].state == task_pb2.TASK_STATE_PENDING


def test_a_redrive_that_leaves_some_for_its_limit_says_so(admin: Admin, broker: FakeBroker) -> None:
    for name in ("a", "b", "c"):
        admin("submit", "q", "t", "--id", name)
    fail(broker, "a", "b", "c")

    some = admin("dead-letters", "redrive", "--queue", "q", "--limit", "2", "-o", "json")
    rest = admin("dead-letters", "redrive", "--queue", "q", "-o", "json")

    assert (some.code, some.json["redriven"], some.json["more"]) == (0, 2, True)
    assert "There are more" in some.stderr
    assert (rest.json["redriven"], rest.json["more"], rest.stderr) == (1, False, "")


def test_a_redrive_of_a_queue_takes_as_many_calls_as_it_needs(
    admin: Admin, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_admin.dead_letters.CALL_MAX", 2)
    names = [f"t{number}" for number in range(5)]
    for name in names:
        admin("submit", "q", "t", "--id", name)
    fail(broker, *names)

    assert admin("dead-letters", "redrive", "--queue", "q", "-o", "json").json["redriven"] == 5


def test_redriving_names_the_tasks_that_are_no_dead_letters(
    admin: Admin, broker: FakeBroker
) -> None:
    admin("submit", "q", "t", "--id", "a")
    admin("submit", "q", "t", "--id", "b")
    fail(broker, "a")

    ran = admin("dead-letters", "redrive", "a", "b", "-o", "json")

    assert ran.code == 1
    reason = {"reason": "INVALID_ARGUMENT", "message": "only dead letters are taken"}
    assert ran.json == {
        "redriven": 1,
        "skipped_task_ids": ["b"],
        "skipped": [{"task_id": "b", **reason}],
        "more": False,
    }
    assert "left as they are: b" in ran.stderr


def test_dead_letters_of_one_reason_are_listed_and_redriven_alone(
    admin: Admin, broker: FakeBroker
) -> None:
    """What a recovery put aside stands among all that had failed before and fails since."""
    for name in ("a", "b", "c", "d"):
        admin("submit", "q" if name != "d" else "other", "t", "--id", name)
    fail(broker, "a", "b", "c", "d")
    for name in ("b", "c", "d"):
        broker.tasks[name].failure_reason = task_pb2.FAILURE_REASON_UNCERTAIN

    listed = admin("dead-letters", "list", "--reason", "UNCERTAIN", "--limit", "2", "-o", "json")
    of_queue = admin("dead-letters", "redrive", "--reason", "uncertain", "--queue", "q")
    of_all = admin("dead-letters", "redrive", "--reason", "uncertain", "-o", "json")

    assert {letter["failure_reason"] for letter in listed.json} == {"UNCERTAIN"}
    assert len(listed.json) == 2
    assert "There are more" in listed.stderr
    assert of_queue.stdout.split() == ["redriven", "2"]
    assert of_all.json == {"redriven": 1, "skipped_task_ids": [], "skipped": [], "more": False}
    assert broker.tasks["a"].state == task_pb2.TASK_STATE_FAILED


def test_redriving_wants_task_ids_or_a_queue(admin: Admin) -> None:
    assert admin("dead-letters", "redrive").code == 2
    assert admin("dead-letters", "redrive", "a", "--queue", "q").code == 2
    assert admin("dead-letters", "redrive", "a", "--reason", "uncertain").code == 2


def test_a_dead_letter_is_shown_with_every_attempt(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t", "--id", "a")
    fail(broker, "a")
    broker.tasks["a"].attempts.add(number=1, worker_id="w-6", error="no connection\nto port 80")
    broker.tasks["a"].attempts.add(number=2, worker_id="w-7", error="no such image\nat line 3")

    ran = admin("dead-letters", "show", "a")

    assert ran.code == 0
    assert "w-6" in ran.stdout
    assert "w-7" in ran.stdout
    assert ran.stdout.count("to port 80") == ran.stdout.count("at line 3") == 1
    assert "tq-admin retry a" in ran.stderr


def test_what_is_no_dead_letter_is_not_shown_as_one(admin: Admin) -> None:
    admin("submit", "q", "t", "--id", "a")

    ran = admin("dead-letters", "show", "a")

    assert ran.code == 1
    assert "task a is no dead letter: it is PENDING" in ran.stderr
    assert "tq-admin status a" in ran.stderr


def test_retry_makes_the_dead_letters_named_pending_again(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t", "--id", "a")
    admin("submit", "q", "t", "--id", "b")
    fail(broker, "a")

    ran = admin("retry", "a", "b")

    assert broker.tasks["a"].state == task_pb2.TASK_STATE_PENDING
    assert ran.code == 1
    assert "left as they are: b" in ran.stderr


def test_dead_letters_are_deleted_by_id_in_as_many_calls_as_it_takes(
    admin: Admin, broker: FakeBroker
) -> None:
    for name in ("a", "b", "c", "d"):
        admin("submit", "q", "t", "--id", name)
    fail(broker, "a", "b", "c")

    ran = admin("dead-letters", "delete", "a", "d", "b", "c", "--yes", "-o", "json")

    assert list(broker.tasks) == ["d"]
    assert (ran.json["deleted"], ran.json["skipped_task_ids"]) == (3, ["d"])
    assert ran.code == 1


def test_all_dead_letters_of_a_queue_are_deleted(admin: Admin, broker: FakeBroker) -> None:
    for name in ("a", "b", "c"):
        admin("submit", "q", "t", "--id", name)
    fail(broker, "a", "b", "c")

    assert admin("dead-letters", "delete", "--queue", "q", "-y", "-o", "json").json["deleted"] == 3
    assert admin("dead-letters", "delete", "-y").code == 2


def test_a_purge_cancels_all_that_waits(admin: Admin, broker: FakeBroker) -> None:
    for name in ("a", "b", "c"):
        admin("submit", "q", "t", "--id", name)

    ran = admin("purge", "q", "--yes", "-o", "json")

    assert ran.json == {"queue": "q", "cancelled": 3, "purging": 0}
    assert broker.purges == 1
    states = {task.state for task in broker.tasks.values()}
    assert states == {task_pb2.TASK_STATE_CANCELLED}
    assert admin("purge", "q", "-o", "json").json["cancelled"] == 0
    assert admin("purge", "nope", "--yes").code == 1


def test_what_cannot_be_undone_is_asked_about(
    admin: Admin, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin("submit", "q", "t", "--id", "a")

    unasked = admin("purge", "q")
    assert unasked.code == 2
    assert "--yes" in unasked.stderr

    monkeypatch.setattr("tq_admin.confirm.somebody_is_there", lambda: True)
    declined = admin("purge", "q", stdin="n\n")
    assert declined.code == 1
    assert "Cancel the 1 tasks that wait in queue q (1 pending" in declined.stderr
    assert broker.tasks["a"].state == task_pb2.TASK_STATE_PENDING
    assert admin("purge", "q", stdin="y\n").code == 0
    assert broker.tasks["a"].state == task_pb2.TASK_STATE_CANCELLED


def test_a_purge_tells_how_many_tasks_are_still_to_be_cancelled(
    admin: Admin, broker: FakeBroker
) -> None:
    for name in ("a", "b", "c"):
        admin("submit", "q", "t", "--id", name)
    broker.purging = 2

    ran = admin("purge", "q", "--yes")

    assert "cancelled  3" in ran.stdout
    assert "None of them starts any more. 2 are still listed as waiting" in " ".join(
        ran.stderr.split()
    )
    assert "purging" in admin("queues", "show", "q").stdout
    assert admin("purge", "q", "--stop", "-o", "json").json == {"queue": "q", "spared": 2}
    assert "purging" not in admin("queues", "show", "q").stdout


@pytest.mark.slow
def test_a_purge_that_breaks_off_says_how_far_it_got(admin: Admin, broker: FakeBroker) -> None:
    for name in ("a", "b", "c"):
        admin("submit", "q", "t", "--id", name)

    def no_leader_after_one(context: grpc.ServicerContext) -> None:
        if broker.purges > 2:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "NO_LEADER", "no leader known")

    broker.is_old = True  # a purge at once does not break off
    broker.before = no_leader_after_one

    ran = admin("purge", "q", "--yes", "--timeout", "600ms")

    assert ran.code == 3
    assert "(2 are cancelled so far)" in ran.stderr
    assert "Go on with: tq-admin purge q" in ran.stderr
