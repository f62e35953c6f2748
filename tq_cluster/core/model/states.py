"""The states of a task and the transitions between them."""

from __future__ import annotations

from typing import Final, TypeAlias

from tq.v1 import task_pb2

State: TypeAlias = task_pb2.TaskState.ValueType

NONE: Final = task_pb2.TASK_STATE_UNSPECIFIED
"""In counts by state: the place of all tasks together."""
BLOCKED: Final = task_pb2.TASK_STATE_BLOCKED
SCHEDULED: Final = task_pb2.TASK_STATE_SCHEDULED
PENDING: Final = task_pb2.TASK_STATE_PENDING
RUNNING: Final = task_pb2.TASK_STATE_RUNNING
RETRYING: Final = task_pb2.TASK_STATE_RETRYING
COMPLETED: Final = task_pb2.TASK_STATE_COMPLETED
FAILED: Final = task_pb2.TASK_STATE_FAILED
CANCELLED: Final = task_pb2.TASK_STATE_CANCELLED

ALL: Final[tuple[State, ...]] = tuple(task_pb2.TaskState.values())
TERMINAL: Final[frozenset[State]] = frozenset({COMPLETED, FAILED, CANCELLED})
WAITING: Final[frozenset[State]] = frozenset({BLOCKED, SCHEDULED, PENDING, RETRYING})

UNFINISHED: Final[tuple[State, ...]] = (BLOCKED, SCHEDULED, PENDING, RUNNING, RETRYING)

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    BLOCKED: frozenset({SCHEDULED, PENDING, FAILED, CANCELLED}),
    SCHEDULED: frozenset({PENDING, FAILED, CANCELLED}),
    PENDING: frozenset({RUNNING, FAILED, CANCELLED}),
    RUNNING: frozenset({PENDING, RETRYING, COMPLETED, FAILED, CANCELLED}),
    RETRYING: frozenset({PENDING, FAILED, CANCELLED}),
    COMPLETED: frozenset(),
    FAILED: frozenset({BLOCKED, PENDING}),
    CANCELLED: frozenset(),
}
"""The states that a task can move to, by its present state."""
