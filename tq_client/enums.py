"""The protos' enums as Python's: `task.state == TaskState.COMPLETED`.

Their members are the numbers that messages hold.
"""

from __future__ import annotations

import enum
from typing import Self

from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2


class _Named(enum.IntEnum):
    def __str__(self) -> str:
        return self.name

    # The same as int's, declared so that type checkers allow comparison with messages' numbers.
    def __eq__(self, other: object) -> bool:
        return int(self) == other

    __hash__ = int.__hash__

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """Name a newer broker's number UNKNOWN_n."""
        if not isinstance(value, int):
            return None
        unknown = int.__new__(cls, value)
        unknown._name_, unknown._value_ = f"UNKNOWN_{value}", value
        return unknown


class TaskState(_Named):
    """The state of a task (proto/tq/v1/task.proto)."""

    BLOCKED = task_pb2.TASK_STATE_BLOCKED
    SCHEDULED = task_pb2.TASK_STATE_SCHEDULED
    PENDING = task_pb2.TASK_STATE_PENDING
    RUNNING = task_pb2.TASK_STATE_RUNNING
    RETRYING = task_pb2.TASK_STATE_RETRYING
    COMPLETED = task_pb2.TASK_STATE_COMPLETED
    FAILED = task_pb2.TASK_STATE_FAILED
    CANCELLED = task_pb2.TASK_STATE_CANCELLED


class FailureReason(_Named):
    """Why a task is FAILED (the same place)."""

    ATTEMPTS_EXHAUSTED = task_pb2.FAILURE_REASON_ATTEMPTS_EXHAUSTED
    PERMANENT_ERROR = task_pb2.FAILURE_REASON_PERMANENT_ERROR
    EXPIRED = task_pb2.FAILURE_REASON_EXPIRED
    DEPENDENCY = task_pb2.FAILURE_REASON_DEPENDENCY
    UNCERTAIN = task_pb2.FAILURE_REASON_UNCERTAIN


class CancelReason(_Named):
    """Why a task is CANCELLED (the same place)."""

    REQUESTED = task_pb2.CANCEL_REASON_REQUESTED
    SKIPPED = task_pb2.CANCEL_REASON_SKIPPED
    """It was not needed: what it waited for ended in another way."""
    DEPENDENCY = task_pb2.CANCEL_REASON_DEPENDENCY
    """A task that it depends on was cancelled."""


class DependencyOutcome(_Named):
    """What became of a dependency so far (the same place, DependencyStatus.Status)."""

    OPEN = task_pb2.DependencyStatus.STATUS_OPEN
    """The other task has not ended, or it is not known how."""
    HOLDS = task_pb2.DependencyStatus.STATUS_HOLDS
    BROKEN = task_pb2.DependencyStatus.STATUS_BROKEN
    """It can no longer hold."""


class AttemptEnd(_Named):
    """How an attempt ended (the same place, Attempt.End)."""

    RUNNING = task_pb2.Attempt.END_RUNNING
    COMPLETED = task_pb2.Attempt.END_COMPLETED
    FAILED = task_pb2.Attempt.END_FAILED
    RELEASED = task_pb2.Attempt.END_RELEASED
    LEASE_EXPIRED = task_pb2.Attempt.END_LEASE_EXPIRED
    CANCELLED = task_pb2.Attempt.END_CANCELLED
    UNCERTAIN = task_pb2.Attempt.END_UNCERTAIN


class Ordering(_Named):
    """How a queue orders its tasks (proto/tq/v1/queue_service.proto, QueueSettings.Ordering)."""

    STRICT = queue_service_pb2.QueueSettings.ORDERING_STRICT
    AGING = queue_service_pb2.QueueSettings.ORDERING_AGING


class ReadLevel(_Named):
    """How fresh a read is (proto/tq/v1/task_service.proto)."""

    LINEARIZABLE = task_service_pb2.READ_LEVEL_LINEARIZABLE
    """It sees every write that was acknowledged before it began."""
    LOCAL = task_service_pb2.READ_LEVEL_LOCAL
    """It returns what the called broker has on its disk, even without a leader."""
