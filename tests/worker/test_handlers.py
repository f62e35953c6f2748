from __future__ import annotations

import hashlib
import json

import pytest

from tests.worker.conftest import StartWorker
from tests.worker.fake_broker import FakeBroker
from tq_common.limits import ERROR_BYTES_MAX
from tq_worker.telemetry.events import What


async def test_a_handlers_result_is_recorded(broker: FakeBroker, start_worker: StartWorker) -> None:
    await start_worker()

    ids = await broker.submit("echo", b"hello")

    [task] = await broker.until_ended(ids)
    assert (task.state, task.result, task.ends) == ("COMPLETED", b"hello", ["completed"])


async def test_a_handler_is_told_everything_about_its_attempt(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    ids = await broker.submit("describe", b"in", timeout_s=9, labels={"a": "b"})

    [task] = await broker.until_ended(ids)
    told = json.loads(task.result)
    assert told.pop("token") == broker.reports[0].token
    assert told.pop("submitted_at").endswith("+00:00")
    assert told == {
        "payload": "in",
        "task_id": "describe-1",
        "queue": "q",
        "type": "describe",
        "attempt": 1,
        "max_attempts": 5,
        "is_last_attempt": False,
        "priority": 0,
        "labels": {"a": "b"},
        "content_type": "text/plain",
        "traceparent": "00-trace",
        "has_deadline": True,
        "lease_ahead": True,
        "cancelled": False,
    }


async def test_any_exception_is_a_failure_that_is_retried(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    ids = await broker.submit("flaky")

    [task] = await broker.until_ended(ids)
    assert (task.result, task.ends) == (b"third", ["failed", "failed", "completed"])
    assert task.error.startswith("OSError: attempt 2\nTraceback")
    assert "sample_handlers.py" in task.error
    assert "tq_worker" not in task.error


async def test_a_permanent_error_ends_the_task_at_once(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    ids = await broker.submit("permanent")

    [task] = await broker.until_ended(ids)
    assert (task.state, task.ends) == ("FAILED", ["permanent"])
    assert task.error.startswith("PermanentError: never")


async def test_a_handler_may_say_when_to_retry(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    ids = await broker.submit("retry-after")

    await broker.until_ended(ids)
    assert broker.reports[0].fail.retry_after.ToMilliseconds() == 7500


async def test_a_handler_may_say_that_it_is_not_yet_time(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    [sent] = await broker.submit("snooze", max_attempts=1)
    task = broker.tasks[sent]
    await broker.until(lambda: task.ends == ["snoozed"], "its end")
    await broker.offer(sent)
    await broker.until_ended([sent])

    assert broker.reports[0].release.pause.ToMilliseconds() == 7500
    assert not broker.reports[0].release.HasField("give_up_after")
    assert (task.state, task.result) == ("COMPLETED", b"1")
    assert not any(report.HasField("fail") for report in broker.reports)


async def test_a_result_may_carry_a_content_type(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    ids = await broker.submit("result")

    await broker.until_ended(ids)
    assert broker.reports[0].complete.result == b"{}"
    assert broker.reports[0].complete.content_type == "application/json"


@pytest.mark.parametrize(
    ("task_type", "error"),
    [
        ("wrong-retry-after", "ValueError: retry_after_s: nan is not from 0 to 7 days"),
        ("throttled", "ThrottledError: "),
        ("throttled-in-thread", "ThrottledError: "),
        ("later", "LaterError: later"),
        ("leaving", "LeavingError: (its message cannot be had: SystemExit)"),
        ("unprintable", "UnprintableError: (its message cannot be had: ValueError)"),
        ("cancel-itself", "CancelledError: "),
        ("sys-exit", "SystemExit: leaving"),
    ],
)
async def test_whatever_a_handler_raises_is_a_failure_that_says_why(
    broker: FakeBroker, start_worker: StartWorker, task_type: str, error: str
) -> None:
    await start_worker()

    ids = await broker.submit(task_type, max_attempts=2)

    [task] = await broker.until_ended(ids)
    assert task.ends == ["failed", "failed"]
    assert task.error.startswith(error)


async def test_a_type_without_a_handler_is_left_to_other_workers(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    [strange] = await broker.submit("no-such-type")
    await start_worker()

    await broker.until_ended(await broker.submit("echo", count=20))

    assert broker.tasks[strange].state == "PENDING"
    assert broker.tasks[strange].attempts == 0


async def test_of_more_types_than_a_claim_can_name_a_strange_one_is_given_back_for_a_while(
    broker: FakeBroker, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    await start_worker(["tests.worker.many_handlers"], unfit_for_s=90.0)

    strange = await broker.submit("no-such-type", count=3, max_attempts=1)
    await broker.until(lambda: all(broker.tasks[each].ends for each in strange), "their ends")

    assert [broker.tasks[each].ends for each in strange] == [["unfit"]] * 3
    assert broker.tasks[strange[0]].error.startswith("no handler for type 'no-such-type'")
    release = broker.reports[0].release
    assert release.pause.ToMilliseconds() == 90_000 / 8
    assert release.give_up_after.ToSeconds() == 90
    warned = [each for each in caplog.records if each.getMessage() == What.UNFIT.value]
    assert [each.levelname for each in warned] == ["WARNING"]
    await broker.until_ended(await broker.submit("many-64"))


@pytest.mark.parametrize(("task_type", "kind"), [("wrong-return", "dict"), ("wrong-result", "str")])
async def test_what_is_no_result_fails_once_and_for_all(
    broker: FakeBroker, start_worker: StartWorker, task_type: str, kind: str
) -> None:
    await start_worker()

    ids = await broker.submit(task_type, max_attempts=5)

    [task] = await broker.until_ended(ids)
    assert task.ends == ["permanent"]
    assert task.error == (
        f"the result does not fit: TypeError: the handler returned {kind}; "
        "it must return bytes, Result or None"
    )


async def test_exceptions_that_cannot_be_reported_take_no_slot_for_ever(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker(concurrency=2)

    for task_type in ("throttled", "throttled-in-thread", "later", "leaving"):
        await broker.until_ended(await broker.submit(task_type, count=3, max_attempts=1))

    [task] = await broker.until_ended(await broker.submit("echo", b"fine"))
    assert task.state == "COMPLETED"


async def test_an_error_is_cut_to_what_the_queue_keeps(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    ids = await broker.submit("long-error", max_attempts=1)

    [task] = await broker.until_ended(ids)
    assert task.error.startswith("ValueError: xxx")
    assert len(task.error.encode()) <= ERROR_BYTES_MAX


async def test_a_result_that_the_queue_refuses_fails_the_attempt(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    broker.refused_result = b"too much"
    await start_worker()

    ids = await broker.submit("echo", b"too much", max_attempts=3)

    [task] = await broker.until_ended(ids)
    assert (task.state, task.error) == (
        "FAILED",
        "the result does not fit: the result is too large",
    )


@pytest.mark.slow
async def test_payloads_and_results_of_ten_megabytes_pass(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker()

    ids = await broker.submit("big", b"10485760", count=2)

    tasks = await broker.until_ended(ids)
    assert [len(task.result) for task in tasks] == [10 * 1024 * 1024] * 2
    echoed = await broker.submit("echo", tasks[0].result, count=2)
    assert [task.result for task in await broker.until_ended(echoed)] == [tasks[0].result] * 2


async def test_the_shipped_handlers_do_what_they_say(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker(["tq_worker.handlers"])

    [computed] = await broker.submit("compute", b"2")
    [slept] = await broker.submit("sleep", b"0.01")
    [failed] = await broker.submit("fail", b'{"message": "no", "permanent": true}')
    [flaky] = await broker.submit("fail", b'{"attempts": 1}')
    bad = [
        *await broker.submit("compute", b"-1"),
        *await broker.submit("sleep", b"nan"),
        *await broker.submit("fail", b"[]"),
    ]

    await broker.until_ended([computed, slept, failed, flaky, *bad])
    twice = hashlib.sha256(hashlib.sha256(computed.encode()).digest()).hexdigest()
    assert broker.tasks[computed].result.decode() == twice
    assert broker.tasks[slept].result == b"0.01"
    assert broker.tasks[failed].error.startswith("PermanentError: no")
    assert broker.tasks[flaky].result == b"succeeded in attempt 2"
    assert [broker.tasks[each].ends for each in bad] == [["permanent"]] * 3


async def test_many_tasks_run_in_several_processes(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker(concurrency=4, processes=2)

    ids = await broker.submit("pid", count=500)

    tasks = await broker.until_ended(ids)
    assert {task.state for task in tasks} == {"COMPLETED"}
    assert len({task.result for task in tasks}) == 2
    assert all(task.ends[-1] == "completed" for task in tasks)
