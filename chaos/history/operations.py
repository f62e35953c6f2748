"""The effects of calls on one task, and what their answers say of the task.

``apply`` gives the states that a call can lead to from a state: none if its answer contradicts that
state, the same state for a read that agrees with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from chaos.history.calls import Ending
from chaos.history.model import (
    ABSENT,
    BLOCKED,
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    RETRYING,
    RUNNING,
    SCHEDULED,
    WAITING,
    State,
    TaskState,
)
from tq.v1 import task_pb2

ATTEMPTS_KEPT = 50
"""A read shows at most this many of the newest attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Takes effect at one instant between ``began_s`` and ``known_by_s``, or never.

    Never is possible only if it is not ``certain``: its answer was not seen.
    """

    only_looks: ClassVar[bool] = False
    """Whether it changes nothing in any state."""

    began_s: float
    known_by_s: float
    what: str
    certain: bool = True

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Operation):
    """A submit; repeating it changes nothing. ``may_wait``: for other tasks."""

    may_wait: bool = False

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        if task.exists or task.deleted:
            yield task
        else:
            yield replace(task, state=PENDING, may_wait=self.may_wait)
            yield replace(task, state=SCHEDULED, may_wait=self.may_wait)
            if self.may_wait:
                yield replace(task, state=BLOCKED, may_wait=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Operation):
    """The start of a lease."""

    token: int
    stranded: bool = False
    """Whether the answer with this lease was never seen."""

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        if task.state == PENDING and self.token > task.token:
            yield replace(task, state=RUNNING, token=self.token, stranded=self.stranded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds(Operation):
    """An answer that says the lease is live. ``cancel_requested`` None: it says nothing of that."""

    only_looks = True

    token: int
    cancel_requested: bool | None = None

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        agrees = self.cancel_requested in {None, task.cancel_requested}
        if task.held_by(self.token) and agrees:
            yield task


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldsNot(Operation):
    """An answer that says the lease is not live. ``unreported``: and no report ended it."""

    only_looks = True

    token: int
    unreported: bool = False

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        ended = task.ending_of(self.token)
        reported = ended is not None and ended.reported != ABSENT
        if not task.held_by(self.token) and not (self.unreported and reported):
            yield task


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Operation):
    """A report that was recorded, or, if not ``certain``, may have been.

    ``state`` is the state that the answer named; None: there was no answer.
    """

    token: int
    ending: Ending
    result: bytes
    state: State | None

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        if not task.held_by(self.token):
            if not self.certain:
                yield task
            return
        for after in self._taken(task):
            if self.state in {None, after.state}:
                yield after

    def _taken(self, task: TaskState) -> Iterator[TaskState]:
        if self.ending is Ending.COMPLETE:
            done = task.over(task_pb2.Attempt.END_COMPLETED, COMPLETED, reported=True)
            yield replace(done, result=self.result)
        elif task.cancel_requested:
            yield task.over(task_pb2.Attempt.END_CANCELLED, CANCELLED, reported=True)
        elif self.ending is Ending.FAIL:
            yield task.over(task_pb2.Attempt.END_FAILED, RETRYING, reported=True)
            yield task.over(task_pb2.Attempt.END_FAILED, FAILED, reported=True)
        else:
            after = RETRYING if self.ending is Ending.PAUSE else PENDING
            yield task.over(task_pb2.Attempt.END_RELEASED, after, reported=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WasRecorded(Recorded):
    """An answer that says this report was recorded before, and led to ``state``.

    "Before" may be within this call: a broker that forwards the call may repeat it.
    """

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        ended = task.ending_of(self.token)
        if ended is not None and ended.reported in {self.state} - {ABSENT}:
            yield task
        yield from Recorded.apply(self, task)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(Operation):
    """An answer that says there is no such task."""

    only_looks = True

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        if not task.exists:
            yield task


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Operation):
    """A cancel. ``state`` is what the answer said; None: there was no answer."""

    request_id: str
    state: State | None

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        after = task if self.request_id in task.remembered else self._cancelled(task)
        if self.state in {None, after.state}:
            yield after

    def _cancelled(self, task: TaskState) -> TaskState:
        remembered = task.remembered | {self.request_id}
        if task.state in WAITING:
            return replace(task, state=CANCELLED, remembered=remembered)
        if task.state == RUNNING and not task.cancel_requested:
            return replace(task, cancel_requested=True, remembered=remembered)
        return task


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive(Operation):
    """A redrive of this task. ``done``: what the answer said; None: there was no answer."""

    request_id: str
    done: bool | None

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        if self.request_id in task.remembered:
            if self.done is not False:
                yield task
        elif task.state == FAILED and not task.failed_with:
            if self.done is not False:
                yield _redriven(task, self.request_id)
            if task.may_wait and not self.done:
                yield task  # its failure may have let another task go
        elif not self.done:
            yield task


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Operation):
    """A deletion of this dead letter. ``done`` as for ``Redrive``."""

    request_id: str
    done: bool | None

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        if self.request_id in task.remembered:
            if self.done is not False:
                yield task
        elif task.state == FAILED:
            if self.done is not False:
                yield _deleted(task, self.request_id)
            if task.may_wait and not self.done:
                yield task  # another task may need it
        elif not self.done:
            yield task


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Operation):
    """A purge, redrive or deletion of a whole queue, which may have included this task."""

    request_id: str
    kind: str

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        yield task
        if self.request_id in task.remembered:
            return
        if self.kind == "purge" and task.state in WAITING:
            yield replace(task, state=CANCELLED, remembered=task.remembered | {self.request_id})
        elif self.kind == "redrive" and task.state == FAILED and not task.failed_with:
            yield _redriven(task, self.request_id)
        elif self.kind == "delete" and task.state == FAILED:
            yield _deleted(task, self.request_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCluster(Operation):
    """A new cluster takes the place of one that was lost, without any of its leases."""

    quarantined: bool

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        if task.state != RUNNING:
            yield task
        elif self.quarantined:
            yield task.over(task_pb2.Attempt.END_UNCERTAIN, FAILED, reported=False)
        elif task.cancel_requested:
            yield task.over(task_pb2.Attempt.END_CANCELLED, CANCELLED, reported=False)
        else:
            yield task.over(task_pb2.Attempt.END_RELEASED, PENDING, reported=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Operation):
    """A read that found the task."""

    only_looks = True

    state: State
    attempts: tuple[tuple[int, int], ...]
    result: bytes
    cancel_requested: bool
    redrives: int

    def apply(self, task: TaskState) -> Iterator[TaskState]:
        attempts = task.attempts()[-ATTEMPTS_KEPT:]
        if (
            task.state == self.state
            and tuple(attempts) == self.attempts
            and task.cancel_requested == self.cancel_requested
            and (
                task.redrives == self.redrives or (task.may_wait and task.redrives < self.redrives)
            )
            and (self.state != COMPLETED or task.result == self.result)
        ):
            yield task


def _redriven(task: TaskState, request_id: str) -> TaskState:
    return replace(
        task,
        state=PENDING,
        redrives=task.redrives + 1,
        remembered=task.remembered | {request_id},
    )


def _deleted(task: TaskState, request_id: str) -> TaskState:
    return TaskState(deleted=True, token=task.token, remembered=task.remembered | {request_id})
