"""A small state machine of one task, as its callers may rely on it, to check histories against.

It is written from the protos and the guarantees alone, and shares no code with the brokers. Where
callers cannot know what happens (a lease expires, a timer fires), the model allows it at any time:
other checks judge whether that was too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from tq.v1 import task_pb2

State: TypeAlias = "task_pb2.TaskState.ValueType"
End: TypeAlias = "task_pb2.Attempt.End.ValueType"

ABSENT: State = task_pb2.TASK_STATE_UNSPECIFIED
BLOCKED = task_pb2.TASK_STATE_BLOCKED
SCHEDULED = task_pb2.TASK_STATE_SCHEDULED
PENDING = task_pb2.TASK_STATE_PENDING
RUNNING = task_pb2.TASK_STATE_RUNNING
RETRYING = task_pb2.TASK_STATE_RETRYING
COMPLETED = task_pb2.TASK_STATE_COMPLETED
FAILED = task_pb2.TASK_STATE_FAILED
CANCELLED = task_pb2.TASK_STATE_CANCELLED

TERMINAL = frozenset({COMPLETED, FAILED, CANCELLED})
WAITING = frozenset({BLOCKED, SCHEDULED, PENDING, RETRYING})


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that is over. ``reported`` is the state that a report of it led to, or ABSENT."""

    token: int
    end: End
    reported: State = ABSENT


@dataclass(frozen=True, slots=True)
class TaskState:
    """Everything about a task that an answer can depend on."""

    state: State = ABSENT
    may_wait: bool = False
    """Whether it may depend on other tasks, or they on it: their ends and redrives move it, too."""
    failed_with: bool = False
    """Whether it is FAILED because of a task that it waited for: that one's redrive takes it
    back."""
    deleted: bool = False
    """Whether the task was deleted: a repeated submit does not create it again."""
    token: int = 0
    """The token of the newest lease."""
    stranded: bool = False
    """Whether the answer that granted the lease was never seen: the leader may then take it
    back."""
    ended: tuple[Ended, ...] = ()
    cancel_requested: bool = False
    result: bytes = b""
    redrives: int = 0
    remembered: frozenset[str] = frozenset()
    """Request ids that changed this task: repeating them changes nothing."""

    @property
    def exists(self) -> bool:
        return self.state != ABSENT

    def held_by(self, token: int) -> bool:
        """Whether the lease of this token is live."""
        return self.state == RUNNING and self.token == token

    def ending_of(self, token: int) -> Ended | None:
        """How the attempt of this token ended, if it did."""
        return next((one for one in self.ended if one.token == token), None)

    def attempts(self) -> list[tuple[int, End]]:
        """The attempts that a read shows: token and end, the live one included."""
        over = [(one.token, one.end) for one in self.ended]
        if self.state == RUNNING:
            over.append((self.token, task_pb2.Attempt.END_RUNNING))
        return over

    def over(self, end: End, state: State, *, reported: bool) -> TaskState:
        """End the live attempt."""
        ended = Ended(self.token, end, state if reported else ABSENT)
        return replace(self, state=state, ended=(*self.ended, ended), cancel_requested=False)

    def unseen(self) -> Iterator[TaskState]:
        """The states that the task may reach without a call."""
        if self.state == RUNNING and self.cancel_requested:
            yield self.over(task_pb2.Attempt.END_CANCELLED, CANCELLED, reported=False)
        elif self.state == RUNNING:
            expired = task_pb2.Attempt.END_LEASE_EXPIRED
            yield self.over(expired, RETRYING, reported=False)
            yield self.over(expired, FAILED, reported=False)
            if self.stranded:
                yield self.over(task_pb2.Attempt.END_RELEASED, PENDING, reported=True)
        elif self.state in {RETRYING, SCHEDULED}:
            yield replace(self, state=PENDING)
        elif self.state == BLOCKED:
            # What it waits for has ended; the workload that submits such tasks judges how.
            yield replace(self, state=PENDING)
            yield replace(self, state=SCHEDULED)
            yield replace(self, state=FAILED, failed_with=True)
            yield replace(self, state=CANCELLED)
        elif self.failed_with:
            yield replace(self, state=BLOCKED, failed_with=False)


def with_unseen(states: frozenset[TaskState]) -> frozenset[TaskState]:
    """Add the states that the task may have reached without a call."""
    found = set(states)
    open_ = list(states)
    while open_:
        for later in open_.pop().unseen():
            if later not in found:
                found.add(later)
                open_.append(later)
    return frozenset(found)
