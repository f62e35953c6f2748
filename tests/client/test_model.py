"""What a client returns says all that the messages say, in Python's types."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.client.fake_broker import FakeBroker, serving
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2
from tq.v1.task_options import OPTIONS, TaskFields
from tq_client import (
    After,
    AsyncClient,
    Attempt,
    AttemptEnd,
    Backoff,
    Cancellation,
    CancelReason,
    Deletion,
    DependencyOutcome,
    DependencyStatus,
    FailureReason,
    Ordering,
    QueueSettings,
    QueueStats,
    QueueTotals,
    ReadLevel,
    Redrive,
    Task,
    TaskState,
    task_spec,
)

AT = datetime(2026, 11, 29, 23, 0, tzinfo=UTC)
LATER = AT + timedelta(minutes=5)


def a_dead_letter() -> task_pb2.Task:
    task = task_pb2.Task(
        spec=task_spec(
            "mail",
            "send",
            b"letter",
            task_id="t1",
            content_type="text/plain",
            priority=7,
            run_at=AT,
            expire_at=LATER,
            timeout=30,
            retries=2,
            backoff=Backoff(first=1, factor=3, most=60, jitter=False),
            labels={"team": "a"},
            retention=timedelta(days=2),
            traceparent="00-ab",
            depends_on=["t0", After("t2", "not_completed", "fail")],
            need=1,
        ),
        state=task_pb2.TASK_STATE_FAILED,
        failure_reason=task_pb2.FAILURE_REASON_PERMANENT_ERROR,
        last_error="550 no such mailbox",
        attempts_made=1,
        result=b"r",
        result_content_type="text/plain",
        cancel_requested=True,
        redrives=3,
        cancel_reason=task_pb2.CANCEL_REASON_SKIPPED,
        ended_by="t0",
    )
    task.dependencies.add(
        task_id="t0",
        status=task_pb2.DependencyStatus.STATUS_BROKEN,
        state=task_pb2.TASK_STATE_FAILED,
    )
    task.dependencies.add(task_id="t2")
    attempt = task.attempts.add(
        number=1,
        token=9,
        worker_id="w1",
        end=task_pb2.Attempt.END_FAILED,
        error="550 no such mailbox",
    )
    attempt.started_at.FromDatetime(AT)
    attempt.ended_at.FromDatetime(LATER)
    task.submitted_at.FromDatetime(AT)
    task.due_at.FromDatetime(AT)
    task.finished_at.FromDatetime(LATER)
    return task


def test_a_task_is_told_in_pythons_types() -> None:
    message = a_dead_letter()

    task = Task.of(message)

    assert task == replace(
        Task.of(task_pb2.Task()),
        task_id="t1",
        queue="mail",
        type="send",
        state=TaskState.FAILED,
        payload=b"letter",
        content_type="text/plain",
        priority=7,
        labels={"team": "a"},
        submitted_at=AT,
        run_at=AT,
        expire_at=LATER,
        timeout=timedelta(seconds=30),
        retries=2,
        backoff=Backoff(
            first=timedelta(seconds=1), factor=3, most=timedelta(minutes=1), jitter=False
        ),
        retention=timedelta(days=2),
        depends_on=(After("t0"), After("t2", "not_completed", "fail")),
        need=1,
        due_at=AT,
        finished_at=LATER,
        attempts_made=1,
        attempts=(
            Attempt(
                number=1,
                token=9,
                worker_id="w1",
                started_at=AT,
                ended_at=LATER,
                end=AttemptEnd.FAILED,
                error="550 no such mailbox",
            ),
        ),
        failure_reason=FailureReason.PERMANENT_ERROR,
        cancel_reason=CancelReason.SKIPPED,
        ended_by="t0",
        dependencies=(
            DependencyStatus(task_id="t0", status=DependencyOutcome.BROKEN, state=TaskState.FAILED),
            DependencyStatus(task_id="t2", status=None, state=None),
        ),
        last_error="550 no such mailbox",
        result=b"r",
        result_content_type="text/plain",
        cancel_requested=True,
        redrives=3,
        traceparent="00-ab",
        message=message,
    )


def test_what_is_not_there_is_none() -> None:
    task = Task.of(task_pb2.Task(spec=task_spec("mail", "send")))

    absent = {each.name for each in fields(task) if getattr(task, each.name) is None}
    assert absent == {
        *(each.name for each in fields(TaskFields) if "None" in str(each.type)),
        *("retries", "backoff", "due_at", "finished_at", "failure_reason", "cancel_reason"),
    }


OURS = {each.field: each.name for each in OPTIONS}
NOT_OF_A_TASK_THAT_IS = {each.field for each in OPTIONS if each.submit_only}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Task, [task_pb2.Task, task_pb2.TaskSpec]),
        (Attempt, [task_pb2.Attempt]),
        (DependencyStatus, [task_pb2.DependencyStatus]),
        (Redrive, [queue_service_pb2.RedriveResponse]),
        (Deletion, [queue_service_pb2.DeleteDeadLettersResponse]),
        (Cancellation, [task_service_pb2.CancelTaskResponse]),
        (QueueSettings, [queue_service_pb2.QueueSettings]),
        (QueueStats, [queue_service_pb2.QueueStats]),
        (QueueTotals, [queue_service_pb2.QueueTotals]),
    ],
)
def test_every_field_of_a_message_has_its_place(ours: Any, theirs: list[type[Message]]) -> None:  # noqa: ANN401  # any dataclass
    said = {each.name for message in theirs for each in message.DESCRIPTOR.fields}
    said -= {"spec"} | NOT_OF_A_TASK_THAT_IS

    assert {each.name for each in fields(ours)} - {"message"} == {
        OURS.get(name, name) for name in said
    }


@pytest.mark.parametrize(
    "settings",
    [
        QueueSettings(),
        QueueSettings(ordering=Ordering.AGING, aging=timedelta(seconds=2), paused=True, etag="e"),
    ],
)
def test_settings_come_back_as_they_went(settings: QueueSettings) -> None:
    assert QueueSettings.of(settings.message) == settings


def test_what_a_newer_broker_says_has_a_name_all_the_same() -> None:
    task = task_pb2.Task(spec=task_spec("mail", "send"))
    task.MergeFromString(b"\x10\x63")  # state 99

    assert str(Task.of(task).state) == "UNKNOWN_99"
    assert Task.of(task).state == 99
    assert Task.of(task).state not in set(TaskState)


async def test_a_client_returns_them_and_asks_as_it_is_told() -> None:
    message = a_dead_letter()
    stats = queue_service_pb2.QueueStats(queue="mail", pending=4)
    stats.oldest_pending_at.FromDatetime(AT)
    stats.settings.paused = True
    cancelled = task_service_pb2.CancelTaskResponse(state=task_pb2.TASK_STATE_CANCELLED)
    cancelled.cancelled_at.FromDatetime(AT)
    broker = FakeBroker(
        answers={
            "GetTask": lambda _request: task_service_pb2.GetTaskResponse(task=message),
            "GetQueueStats": lambda _request: queue_service_pb2.GetQueueStatsResponse(stats=stats),
            "CancelTask": lambda _request: cancelled,
            "ConfigureQueue": lambda request: queue_service_pb2.ConfigureQueueResponse(
                settings=request.settings
            ),
        }
    )
    wanted = QueueSettings(ordering=Ordering.AGING, aging=timedelta(seconds=3))
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        assert await client.get("t1", read_level=ReadLevel.LOCAL) == Task.of(message)
        counted = await client.queue_stats("mail")
        assert (counted.pending, counted.oldest_pending_at) == (4, AT)
        assert counted.settings.paused
        assert (await client.cancel("t1")).cancelled_at == AT
        assert await client.configure_queue("mail", wanted) == wanted

    [asked] = broker.of("GetTask")
    assert asked.read_level == task_service_pb2.READ_LEVEL_LOCAL
