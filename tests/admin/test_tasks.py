"""Submitting, looking at, listing and cancelling tasks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, refuse
from tq.v1 import task_pb2


def test_submit_sends_what_was_typed_and_prints_the_id(admin: Admin, broker: FakeBroker) -> None:
    ran = admin(
        *("submit", "images", "resize", "--payload", "a.png", "--priority", "7", "--id", "t1"),
        *("--retries", "2", "--label", "team=web", "--label", "size=", "--task-timeout", "2m"),
    )

    assert (ran.code, ran.stderr) == (0, "")
    assert "t1" in ran.stdout
    spec = broker.tasks["t1"].spec
    assert (spec.queue, spec.type, spec.payload) == ("images", "resize", b"a.png")
    assert (spec.priority, spec.max_attempts) == (7, 3)
    assert dict(spec.labels) == {"team": "web", "size": ""}
    assert spec.timeout.ToTimedelta() == timedelta(minutes=2)


def test_a_payload_comes_from_a_file_or_from_stdin(
    admin: Admin, broker: FakeBroker, tmp_path: Path
) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b"\x00\xff")

    assert admin("submit", "q", "t", "--id", "a", "--payload-file", str(file)).code == 0
    assert admin("submit", "q", "t", "--id", "b", "--payload-file", "-", stdin=b"\xfe").code == 0

    assert broker.tasks["a"].spec.payload == b"\x00\xff"
    assert broker.tasks["b"].spec.payload == b"\xfe"


def test_a_delay_is_counted_from_now(admin: Admin, broker: FakeBroker) -> None:
    before = datetime.now(UTC)

    assert admin("submit", "q", "t", "--id", "a", "--delay", "1h").code == 0

    run_at = broker.tasks["a"].spec.run_at.ToDatetime(tzinfo=UTC)
    assert timedelta(hours=1) <= run_at - before < timedelta(hours=1, minutes=1)


def test_an_instant_with_an_offset_is_sent_in_utc(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t", "--id", "a", "--run-at", "2030-01-31T09:00:00+01:00")

    assert broker.tasks["a"].spec.run_at.ToJsonString() == "2030-01-31T08:00:00Z"


def test_a_submit_that_meets_no_leader_is_repeated_under_its_request_id(
    admin: Admin, broker: FakeBroker
) -> None:
    def no_leader_at_first(context: grpc.ServicerContext) -> None:
        if len(broker.submits) < 3:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "NO_LEADER", "no leader known")

    broker.before = no_leader_at_first

    ran = admin("submit", "q", "t")

    assert ran.code == 0
    assert len(broker.submits) == 3
    assert len({request.request_id for request in broker.submits}) == 1
    ages = [request.retry_age.ToTimedelta() for request in broker.submits]
    assert ages[0] == timedelta(0) < ages[1] < ages[2]


def test_submit_and_wait_shows_the_result(admin: Admin, broker: FakeBroker) -> None:
    broker.waits_until_finished = 3

    ran = admin("submit", "q", "echo", "--payload", "hello", "--wait", "-o", "json")

    assert ran.code == 0
    assert (ran.json["state"], ran.json["result"]) == ("COMPLETED", "hello")


def test_submit_and_wait_fails_when_the_task_does(admin: Admin) -> None:
    ran = admin("submit", "q", "fail", "--id", "t1", "--wait")

    assert ran.code == 1
    assert "task t1 ended FAILED: no such image" in ran.stderr


def test_a_refused_task_names_the_reason_and_what_to_do(admin: Admin) -> None:
    admin("submit", "q", "t", "--id", "t1")

    ran = admin("submit", "q", "t", "--id", "t1")

    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.splitlines() == [
        "tq-admin: cannot submit to queue q: TASK_EXISTS: a task t1 exists (field task_id)",
        "Look at it with tq-admin status, or choose another --id.",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--payload", "x", "--payload-file", "-"], "give one of --payload and --payload-file"),
        (["--payload-file", "/nowhere/at-all"], "cannot read /nowhere/at-all"),
        (["--delay", "5 weeks"], "not a length of time: 500ms, 30s"),
        (["--delay", "5s", "--run-at", "2030-01-01T00:00:00Z"], "give one of --run-at and --delay"),
        (["--run-at", "tomorrow"], "not an instant like"),
        (["--label", "novalue"], "is not key=value"),
        (["--priority", "256"], "255"),
    ],
)
def test_wrong_usage_says_which_option_and_sends_nothing(
    admin: Admin, broker: FakeBroker, arguments: list[str], complaint: str
) -> None:
    ran = admin("submit", "q", "t", *arguments)

    assert ran.code == 2
    assert complaint in " ".join(ran.stderr.replace("│", " ").split())
    assert not broker.submits


def test_status_shows_a_task_with_its_attempts(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t", "--id", "t1", "--payload", "[bold]not markup[/bold]")
    attempt = broker.tasks["t1"].attempts.add(number=1, token=77, worker_id="w1", error="boom")
    attempt.end = task_pb2.Attempt.END_FAILED
    attempt.started_at.FromJsonString("2030-01-31T08:00:00Z")

    ran = admin("status", "t1")

    assert ran.code == 0
    for expected in ("t1", "PENDING", "[bold]not markup[/bold]", "FAILED", "77", "w1", "boom"):
        assert expected in ran.stdout


def test_json_and_yaml_carry_numbers_as_numbers_and_bytes_as_text_or_base64(
    admin: Admin, broker: FakeBroker
) -> None:
    admin("submit", "q", "t", "--id", "t1", "--payload", "grüße")
    broker.tasks["t1"].attempts.add(number=1, token=2**52)
    broker.tasks["t1"].result = b"\xff\x00"

    as_json = admin("status", "t1", "-o", "json").json

    assert as_json["spec"]["payload"] == "grüße"
    assert as_json["result_base64"] == "/wA="
    assert as_json["attempts"][0]["token"] == 2**52
    assert as_json["finished_at"] is None
    assert admin("--output", "yaml", "status", "t1").yaml == as_json


def test_a_task_that_does_not_exist_is_a_refusal(admin: Admin) -> None:
    ran = admin("status", "nope")

    assert ran.code == 1
    assert "cannot show task nope: NOT_FOUND: no task nope" in ran.stderr


def test_list_goes_on_past_short_and_empty_pages(admin: Admin) -> None:
    for number in range(7):
        admin("submit", "q", "t", "--id", f"t{number}")
    admin("submit", "other", "t")

    ran = admin("list", "--queue", "q", "--limit", "5", "-o", "json")

    assert [task["spec"]["task_id"] for task in ran.json] == ["t6", "t5", "t4", "t3", "t2"]
    assert "There are more" in ran.stderr


def test_list_filters_by_state_and_label(admin: Admin) -> None:
    admin("submit", "q", "t", "--id", "a", "--label", "team=web")
    admin("submit", "q", "t", "--id", "b")
    admin("cancel", "a")

    cancelled = admin("list", "--state", "cancelled", "--label", "team=web", "-o", "json")

    assert [task["spec"]["task_id"] for task in cancelled.json] == ["a"]
    assert admin("list", "--state", "running", "-o", "json").json == []


def test_each_task_that_cannot_be_cancelled_is_one_line_however_long(admin: Admin) -> None:
    ids = ["a" * 255, "b" * 255]

    ran = admin("cancel", *ids)

    told = [f"tq-admin: cannot cancel task {task_id}" for task_id in ids]
    lines = ran.stderr.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, told, strict=False)] == told


def test_cancel_goes_on_past_a_task_that_cannot_be_cancelled(
    admin: Admin, broker: FakeBroker
) -> None:
    admin("submit", "q", "t", "--id", "a")
    admin("submit", "q", "t", "--id", "b")
    broker.tasks["b"].state = task_pb2.TASK_STATE_RUNNING

    ran = admin("cancel", "a", "nope", "b", "-o", "json")

    assert ran.code == 1
    assert {one["task_id"]: one["state"] for one in ran.json} == {"a": "CANCELLED", "b": "RUNNING"}
    assert "cannot cancel task nope" in ran.stderr
