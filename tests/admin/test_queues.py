"""Queues and dead letters."""

from __future__ import annotations

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker
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


def test_redriving_names_the_tasks_that_are_no_dead_letters(
    admin: Admin, broker: FakeBroker
) -> None:
    admin("submit", "q", "t", "--id", "a")
    admin("submit", "q", "t", "--id", "b")
    fail(broker, "a")

    ran = admin("dead-letters", "redrive", "a", "b", "-o", "json")

    assert ran.code == 1
    assert ran.json == {"redriven": 1, "skipped_task_ids": ["b"]}
    assert "not dead letters, and left alone: b" in ran.stderr


def test_redriving_wants_task_ids_or_a_queue(admin: Admin) -> None:
    assert admin("dead-letters", "redrive").code == 2
    assert admin("dead-letters", "redrive", "a", "--queue", "q").code == 2
