"""Events of tasks, for a log; recorded only if they are wanted."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tq.v1 import task_pb2


class What(enum.StrEnum):
    """The kinds of events; docs/monitoring.md explains them."""

    SUBMITTED = "task submitted"
    ASSIGNED = "task assigned"
    COMPLETED = "task completed"
    RETRIED = "task retried"
    DEAD = "task dead"
    CANCELLED = "task cancelled"
    RELEASED = "task released"
    REDRIVEN = "task redriven"
    LEASE_EXPIRED = "lease expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One event of a task."""

    what: What
    namespace: int
    task_id: str
    queue: str
    task_type: str
    attempt: int
    """0 before the first."""
    worker_id: str
    """The worker of that attempt; empty before the first."""
    traceparent: str
    due_at_ms: int
    """When a retried task may be claimed again."""
    reason: task_pb2.FailureReason.ValueType
    """Why a task is dead."""
