"""What became of tasks, for whoever writes it down; told only where somebody asked to hear it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tq.v1 import task_pb2


class What(enum.StrEnum):
    """The vocabulary; docs/monitoring.md explains it."""

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
    """One of them."""

    what: What
    task_id: str
    queue: str
    task_type: str
    attempt: int
    """0 before the first."""
    worker_id: str
    """Who made that attempt; empty before the first."""
    traceparent: str
    due_at_ms: int
    """When a task that is retried may be claimed again."""
    reason: task_pb2.FailureReason.ValueType
    """Why a task is dead."""
