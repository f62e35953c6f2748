"""Python's enums say what the protos' do."""

from __future__ import annotations

import enum

import pytest
from google.protobuf.descriptor import EnumDescriptor

from tq.v1.queue_service_pb2 import QueueSettings
from tq.v1.task_pb2 import (
    Attempt,
    CancelReason,
    DependencyStatus,
    FailureReason,
    Task,
    TaskState,
)
from tq.v1.task_service_pb2 import ReadLevel
from tq_client import enums


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (enums.TaskState, TaskState.DESCRIPTOR, "TASK_STATE_"),
        (enums.FailureReason, FailureReason.DESCRIPTOR, "FAILURE_REASON_"),
        (enums.CancelReason, CancelReason.DESCRIPTOR, "CANCEL_REASON_"),
        (enums.DependencyOutcome, DependencyStatus.Status.DESCRIPTOR, "STATUS_"),
        (enums.AttemptEnd, Attempt.End.DESCRIPTOR, "END_"),
        (enums.Ordering, QueueSettings.Ordering.DESCRIPTOR, "ORDERING_"),
        (enums.ReadLevel, ReadLevel.DESCRIPTOR, "READ_LEVEL_"),
    ],
)
def test_they_have_the_same_members(
    ours: type[enum.IntEnum], theirs: EnumDescriptor, prefix: str
) -> None:
    named = {each.name.removeprefix(prefix): each.number for each in theirs.values}
    del named["UNSPECIFIED"]

    assert {each.name: each.value for each in ours} == named


def test_what_a_message_holds_is_compared_with_them() -> None:
    task = Task(state=TaskState.TASK_STATE_COMPLETED)

    assert task.state == enums.TaskState.COMPLETED
    assert str(enums.TaskState(task.state)) == "COMPLETED"
