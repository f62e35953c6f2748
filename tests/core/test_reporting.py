"""How attempts end, and which reports count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.lone_queue import (
    START_MS,
    LoneQueue,
    at,
    instant,
    report_of,
    span,
    spec,
    state_of,
    status,
)
from tests.scopes import scope_of
from tq.v1 import errors_pb2, task_pb2, worker_service_pb2
from tq_cluster.core.invariants import violations
from tq_cluster.storage.store import Store

Completion = worker_service_pb2.Completion
Failure = worker_service_pb2.Failure
TaskReport = worker_service_pb2.TaskReport
Attempt = task_pb2.Attempt


def test_a_completed_task_keeps_its_result_and_who_made_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    queue.now_ms += 10
    (claimed,) = queue.claimed(worker="w-7")
    queue.now_ms += 20

    (result,) = queue.report(
        report_of(claimed, complete=Completion(result=b"42", content_type="text/plain"))
    )

    assert (status(result), state_of(result)) == ("RECORDED", "COMPLETED")
    task = queue.task("one")
    assert (task.result, task.result_content_type) == (b"42", "text/plain")
    assert task.finished_at == at(30)
    assert task.attempts_made == 1
    (attempt,) = task.attempts
    assert (attempt.number, attempt.token, attempt.worker_id) == (1, claimed.token, "w-7")
    assert (attempt.started_at, attempt.ended_at) == (at(10), at(30))
    assert attempt.end == Attempt.END_COMPLETED
    assert queue.leases == {}


@pytest.mark.parametrize("result_bytes", [0, 4096, 4097, 64 << 10, (64 << 10) + 1, 10 << 20])
def test_a_result_of_any_size_up_to_the_limit_comes_back_whole(result_bytes: int) -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    result = bytes(range(256)) * (result_bytes // 256) + bytes(result_bytes % 256)

    queue.complete(queue.claimed()[0], result)

    assert queue.task("one").result == result


def test_a_result_over_the_limit_is_refused_and_the_lease_still_stands() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()

    result = queue.complete(claimed, bytes((10 << 20) + 1))

    assert status(result) == "REFUSED"
    assert result.error.reason == errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE
    assert result.error.field == "complete.result"
    assert queue.state("one") == "RUNNING"
    assert status(queue.complete(claimed, b"small")) == "RECORDED"


def test_a_report_that_says_nothing_is_refused_and_the_lease_still_stands() -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    (claimed,) = queue.claimed()

    (result,) = queue.report(report_of(claimed))

    assert status(result) == "REFUSED"
    assert result.error.field == "outcome"
    assert list(queue.leases) == [claimed.token]


def test_a_worker_that_lost_its_lease_cannot_complete_over_the_new_owner() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (stale,) = queue.claimed(worker="slow")
    queue.expire(stale)
    queue.wait(5_000)
    (fresh,) = queue.claimed(worker="fast")
    entries = len(queue.entries)

    assert status(queue.complete(stale, b"stale")) == "LEASE_LOST"
    assert status(queue.fail(stale)) == "LEASE_LOST"
    assert status(queue.release(stale)) == "LEASE_LOST"
    assert len(queue.entries) == entries
    assert status(queue.complete(fresh, b"fresh")) == "RECORDED"
    assert status(queue.complete(stale, b"stale")) == "LEASE_LOST"
    assert queue.task("one").result == b"fresh"


def test_a_worker_whose_lease_ran_out_can_still_complete_until_the_expiry_is_decided() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    queue.wait(3_600_000)

    assert status(queue.complete(claimed)) == "RECORDED"


def test_a_token_of_another_task_counts_for_nothing() -> None:
    queue = LoneQueue()
    queue.submitted(spec(), spec())
    one, other = queue.claimed(2)

    (result,) = queue.report(
        TaskReport(task_id=one.spec.task_id, token=other.token, complete=Completion())
    )

    assert (status(result), state_of(result)) == ("LEASE_LOST", "RUNNING")


def test_a_report_on_a_task_that_is_not_there_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)  # a disk takes no key of any length
    queue = LoneQueue(store=store)

    results = queue.report(
        TaskReport(task_id="nobody", token=1, complete=Completion()),
        TaskReport(task_id="", token=1, complete=Completion()),
        TaskReport(task_id="x" * 1_000, token=1, complete=Completion()),
        TaskReport(task_id="\u00e9", token=1, complete=Completion()),
    )

    assert [status(result) for result in results] == ["NOT_FOUND"] * 4
    store.close()


def test_an_id_longer_than_any_task_has_is_not_repeated_whole() -> None:
    giant = TaskReport(task_id="x" * (3 << 20), token=1, complete=Completion())

    (result,) = LoneQueue().report(giant)

    assert (status(result), result.task_id) == ("NOT_FOUND", "x" * 200)


def test_repeating_a_completion_returns_the_recorded_one() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    queue.complete(claimed, b"first")
    entries = len(queue.entries)

    for repeated in (queue.complete(claimed, b"second"), queue.fail(claimed)):
        assert (status(repeated), state_of(repeated)) == ("ALREADY_RECORDED", "COMPLETED")
    assert queue.task("one").result == b"first"
    assert len(queue.entries) == entries


def test_a_report_twice_in_one_call_is_recorded_once() -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    (claimed,) = queue.claimed()
    report = report_of(claimed, complete=Completion())

    results = queue.report(report, report)

    assert [status(result) for result in results] == ["RECORDED", "ALREADY_RECORDED"]


def test_repeating_a_failure_returns_what_it_led_to_even_when_others_ran_since() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (first,) = queue.claimed()
    queue.fail(first, retry_after_ms=1_000)
    queue.wait(1_000)
    (second,) = queue.claimed()
    queue.fail(second, retry_after_ms=0)
    queue.wait(0)
    (third,) = queue.claimed()

    repeated = queue.fail(first)

    assert (status(repeated), state_of(repeated)) == ("ALREADY_RECORDED", "RETRYING")
    assert repeated.due_at == at(1_000)
    queue.complete(third)
    assert status(queue.fail(second)) == "ALREADY_RECORDED"
    assert status(queue.complete(first)) == "ALREADY_RECORDED"


def test_a_failed_task_is_tried_again_after_its_backoff() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()

    result = queue.fail(claimed, "no route", retry_after_ms=2_000)

    assert (status(result), state_of(result)) == ("RECORDED", "RETRYING")
    assert result.due_at == queue.task("one").due_at == at(2_000)
    assert queue.task("one").last_error == "no route"
    queue.wait(1_999)
    assert queue.claimed() == []
    queue.wait(1)
    (again,) = queue.claimed()
    assert again.attempt == 2
    assert again.token > claimed.token


def test_a_permanent_error_is_never_retried() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))

    result = queue.fail(queue.claimed()[0], "no such customer", permanent=True)

    assert state_of(result) == "FAILED"
    task = queue.task("one")
    assert task.failure_reason == task_pb2.FAILURE_REASON_PERMANENT_ERROR
    assert task.last_error == "no such customer"


def test_of_an_error_8_kib_are_kept_and_no_character_is_cut() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))

    queue.fail(queue.claimed()[0], "x" + "\u00e9" * 8_000)

    assert queue.task("one").last_error == "x" + "\u00e9" * 4_095


def test_a_retry_after_over_7_d_is_refused() -> None:
    queue = LoneQueue()
    queue.submitted(spec())

    result = queue.fail(queue.claimed()[0], retry_after_ms=7 * 86_400_000 + 1)

    assert status(result) == "REFUSED"
    assert result.error.field == "fail.retry_after"


def test_a_released_task_is_next_again_and_its_attempt_does_not_count() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", max_attempts=1), spec(task_id="two"))
    (claimed,) = queue.claimed()
    queue.now_ms += 60_000

    result = queue.release(claimed, "shutting down")

    assert (status(result), state_of(result)) == ("RECORDED", "PENDING")
    assert queue.task("one").attempts_made == 0
    one, two = queue.claimed(2)
    assert [one.spec.task_id, two.spec.task_id] == ["one", "two"]
    assert one.attempt == 1
    assert one.token > claimed.token
    released, running = queue.task("one").attempts
    assert (released.end, released.error) == (Attempt.END_RELEASED, "shutting down")
    assert (released.number, running.number) == (1, 1)
    assert running.end == Attempt.END_RUNNING


def unfit(queue: LoneQueue, pause_ms: int = 10_000) -> worker_service_pb2.ReportResult:
    """The next task is claimed by a worker that cannot run it; it gives up after a minute."""
    (claimed,) = queue.claimed()
    release = worker_service_pb2.Release(
        reason="no such type", pause=span(pause_ms), give_up_after=span(60_000)
    )
    return queue.report(report_of(claimed, release=release))[0]


def test_a_task_that_is_released_for_a_while_waits_for_that_long() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", max_attempts=1))

    result = unfit(queue)

    assert (status(result), state_of(result)) == ("RECORDED", "RETRYING")
    assert result.due_at == queue.task("one").due_at == at(10_000)
    assert queue.task("one").attempts_made == 0
    queue.wait(9_999)
    assert queue.claimed() == []
    queue.wait(1)
    (again,) = queue.claimed()
    assert again.attempt == 1


def test_a_task_that_nobody_can_run_for_long_is_a_dead_letter() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    for _ in range(6):
        assert state_of(unfit(queue)) == "RETRYING"
        queue.wait(10_000)

    assert state_of(unfit(queue)) == "FAILED"

    task = queue.task("one")
    assert task.failure_reason == task_pb2.FAILURE_REASON_PERMANENT_ERROR
    assert task.last_error == "no such type"
    assert task.attempts[-1].end == Attempt.END_FAILED
    queue.redrive("one")
    assert state_of(unfit(queue)) == "RETRYING"


def test_a_plain_release_does_not_begin_the_time_of_an_unfit_task_anew_and_a_failure_does() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"), spec(task_id="other"))
    unfit(queue, pause_ms=0)
    queue.wait(60_000)
    queue.release(queue.claimed()[0])
    assert state_of(unfit(queue, pause_ms=0)) == "FAILED"

    unfit(queue, pause_ms=0)
    queue.fail(queue.claimed()[0], retry_after_ms=60_000)
    queue.wait(60_000)

    assert state_of(unfit(queue)) == "RETRYING"


@pytest.mark.parametrize(
    ("field", "release"),
    [
        ("release.pause", worker_service_pb2.Release(pause=span(86_400_001))),
        ("release.give_up_after", worker_service_pb2.Release(give_up_after=span(999))),
        ("release.give_up_after", worker_service_pb2.Release(give_up_after=span(604_800_001))),
    ],
)
def test_a_release_with_a_span_out_of_range_is_refused_and_the_lease_still_stands(
    field: str, release: worker_service_pb2.Release
) -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    (claimed,) = queue.claimed()

    (result,) = queue.report(report_of(claimed, release=release))

    assert (status(result), result.error.field) == ("REFUSED", field)
    assert status(queue.complete(claimed)) == "RECORDED"


def test_only_the_newest_50_attempts_are_kept() -> None:
    queue = LoneQueue(audited=False)
    queue.submitted(spec(task_id="one", max_attempts=1_000))
    for number in range(60):
        queue.fail(queue.claimed()[0], f"error {number}", retry_after_ms=0)
        queue.wait(0)

    attempts = queue.task("one").attempts
    assert [attempt.number for attempt in attempts] == list(range(11, 61))
    queue.claimed()
    attempts = queue.task("one").attempts
    assert [attempt.number for attempt in attempts] == list(range(12, 62))
    assert queue.task("one").attempts_made == 61
    assert violations(scope_of(queue.store.view())) == []


def test_tasks_submitted_inside_a_completion_exist_with_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="parent"))
    (claimed,) = queue.claimed()

    result = queue.complete(claimed, submit=[spec(task_id="child"), spec()])

    assert result.submitted_task_ids[0] == "child"
    assert all(queue.state(task_id) == "PENDING" for task_id in result.submitted_task_ids)
    repeated = queue.complete(claimed)
    assert repeated.submitted_task_ids == result.submitted_task_ids


@pytest.mark.parametrize(
    ("children", "field", "reason"),
    [
        ([spec(), spec(priority=300)], "complete.submit[1].priority", "INVALID_ARGUMENT"),
        ([spec(), spec(task_id="parent")], "complete.submit[1].task_id", "TASK_EXISTS"),
        ([spec(task_id="c"), spec(task_id="c")], "complete.submit[1].task_id", "TASK_EXISTS"),
        ([spec()] * 101, "complete.submit", "INVALID_ARGUMENT"),
    ],
)
def test_a_completion_whose_tasks_cannot_be_created_is_refused_whole(
    children: list[task_pb2.TaskSpec], field: str, reason: str
) -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="parent"))
    (claimed,) = queue.claimed()
    entries = len(queue.entries)

    result = queue.complete(claimed, submit=children)

    assert status(result) == "REFUSED"
    assert result.error.field == field
    assert errors_pb2.ErrorReason.Name(result.error.reason) == f"ERROR_REASON_{reason}"
    assert (queue.state("parent"), len(queue.entries)) == ("RUNNING", entries)


def test_a_completion_may_submit_what_is_to_be_there_whoever_brings_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="parent"), spec(task_id="there", payload=b"first"))
    (claimed,) = queue.claimed()
    keep = task_pb2.IF_EXISTS_KEEP
    children = [spec(task_id=name, if_exists=keep) for name in ("there", "new", "new")]

    result = queue.complete(claimed, submit=children)

    assert status(result) == "RECORDED"
    assert list(result.submitted_task_ids) == ["there", "new", "new"]
    assert queue.task("there").spec.payload == b"first"
    assert queue.stats().pending == 2
    repeated = queue.complete(claimed, submit=children)
    assert list(repeated.submitted_task_ids) == ["there", "new", "new"]


def test_two_completions_in_a_call_cannot_create_the_same_task() -> None:
    queue = LoneQueue()
    queue.submitted(spec(), spec())
    one, two = queue.claimed(2)
    completion = Completion(submit=[spec(task_id="child")])

    results = queue.report(report_of(one, complete=completion), report_of(two, complete=completion))

    assert [status(result) for result in results] == ["RECORDED", "REFUSED"]


def test_when_a_task_was_submitted_and_finished_is_log_time() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    queue.now_ms += 1_234

    queue.complete(queue.claimed()[0])

    assert queue.task("one").finished_at == instant(START_MS + 1_234)
