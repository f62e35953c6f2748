"""What brokers answer about tasks and queues, in Python's types.

Instants are aware datetimes in UTC, lengths of time are timedeltas; absent values are None. The
``message`` of each is the protobuf message from the broker, with every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2
from tq.v1.task_options import TaskFields, task_fields
from tq_client.dependencies import After
from tq_client.enums import (
    AttemptEnd,
    CancelReason,
    DependencyOutcome,
    FailureReason,
    Ordering,
    TaskState,
)
from tq_client.specs import Backoff

if TYPE_CHECKING:
    # Not at run time: a handler process imports this module, and needs no gRPC.
    from tq_client.errors import TqError

    _Ordering: TypeAlias = queue_service_pb2.QueueSettings.Ordering.ValueType


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a task by one worker."""

    number: int
    """From 1; the number of a released attempt is used again."""
    token: int
    """The fencing token of its lease."""
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    end: AttemptEnd
    error: str

    @classmethod
    def of(cls, message: task_pb2.Attempt) -> Attempt:
        """Read it from a broker's answer."""
        return cls(
            number=message.number,
            token=message.token,
            worker_id=message.worker_id,
            started_at=_instant(message.started_at),
            ended_at=_instant(message.ended_at) if message.HasField("ended_at") else None,
            end=AttemptEnd(message.end),
            error=message.error,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyStatus:
    """What became of one entry of ``depends_on``."""

    task_id: str
    """The task that is waited for."""
    status: DependencyOutcome | None
    """It no longer changes once the waiting task is not BLOCKED; None if it is not kept."""
    state: TaskState | None
    """The state of the other task by now; None if that is removed."""

    @classmethod
    def of(cls, message: task_pb2.DependencyStatus) -> DependencyStatus:
        """Read it from a broker's answer."""
        return cls(
            task_id=message.task_id,
            status=DependencyOutcome(message.status) if message.status else None,
            state=TaskState(message.state) if message.state else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(TaskFields):
    """A task as a broker describes it.

    A listing leaves out payload, result, attempts, and all about dependencies but
    ``failure_reason`` and ``cancel_reason``.
    """

    queue: str
    type: str
    state: TaskState
    payload: bytes
    retries: int | None
    """How many attempts may follow the first; None is the brokers' default, 4."""
    backoff: Backoff | None
    """How long the task waits before each retry; None is the brokers' default."""
    depends_on: tuple[After, ...]
    """The tasks that have to end before it starts."""
    submitted_at: datetime
    due_at: datetime | None
    """When a waiting task may next be claimed."""
    finished_at: datetime | None
    attempts_made: int
    """How many attempts were started and not released."""
    attempts: tuple[Attempt, ...]
    """The last 50 attempts, the oldest first."""
    failure_reason: FailureReason | None
    """Why the task is FAILED; None in any other state."""
    cancel_reason: CancelReason | None
    """Why the task is CANCELLED; None in any other state, or if an older broker cancelled it."""
    ended_by: str
    """The id of the task whose end ended this one, if a dependency did; else empty."""
    dependencies: tuple[DependencyStatus, ...]
    """What became of each of ``depends_on``, in the same order."""
    last_error: str
    """The error of the last failed attempt; empty if none failed."""
    result: bytes
    result_content_type: str
    cancel_requested: bool
    redrives: int
    """How often the task was redriven from the dead letters."""
    message: task_pb2.Task = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: task_pb2.Task) -> Task:
        """Read it from a broker's answer."""
        spec = message.spec
        return cls(
            **task_fields(spec),
            queue=spec.queue,
            type=spec.type,
            state=TaskState(message.state),
            payload=spec.payload,
            retries=spec.max_attempts - 1 if spec.max_attempts else None,
            backoff=_backoff(spec.retry_policy) if spec.HasField("retry_policy") else None,
            depends_on=tuple(map(After.of, spec.depends_on)),
            submitted_at=_instant(message.submitted_at),
            due_at=_instant(message.due_at) if message.HasField("due_at") else None,
            finished_at=_instant(message.finished_at) if message.HasField("finished_at") else None,
            attempts_made=message.attempts_made,
            attempts=tuple(map(Attempt.of, message.attempts)),
            failure_reason=(
                FailureReason(message.failure_reason) if message.failure_reason else None
            ),
            cancel_reason=CancelReason(message.cancel_reason) if message.cancel_reason else None,
            ended_by=message.ended_by,
            dependencies=tuple(map(DependencyStatus.of, message.dependencies)),
            last_error=message.last_error,
            result=message.result,
            result_content_type=message.result_content_type,
            cancel_requested=message.cancel_requested,
            redrives=message.redrives,
            message=message,
        )

    @property
    def dependency_note(self) -> str:
        """What its dependencies have made of it, in words; empty if they have made nothing.

        For a BLOCKED task: what it waits for. For one that ended without having run because another
        task ended: which, and how.
        """
        if self.state == TaskState.BLOCKED:
            return self._what_it_waits_for()
        if self.failure_reason == FailureReason.DEPENDENCY:
            return f"it never ran, as it depends on {self._what_ended_it()}"
        if self.cancel_reason == CancelReason.DEPENDENCY:
            return f"it was cancelled, as it depends on {self._what_ended_it()}"
        if self.cancel_reason == CancelReason.SKIPPED:
            return f"it was skipped, as it depends on {self._what_ended_it()}"
        return ""

    def _what_it_waits_for(self) -> str:
        waited_for = [each for each in self.dependencies if each.status == DependencyOutcome.OPEN]
        if not waited_for:
            return ""
        first = waited_for[0]
        named = first.task_id if first.state is None else f"{first.task_id}, which is {first.state}"
        held = sum(each.status == DependencyOutcome.HOLDS for each in self.dependencies)
        wanted = (self.need or len(self.dependencies)) - held
        if len(waited_for) == 1:
            return f"it waits for task {named}"
        some = "" if wanted == len(waited_for) else f"{wanted:,} of "
        return f"it waits for {some}{len(waited_for):,} tasks; the first is {named}"

    def _what_ended_it(self) -> str:
        """Name the task that ended this one, and how it ended, as far as that is known."""
        if not self.ended_by:
            return "a task that ended in another way"
        wanted = {after.task: _WANTED.get(after.condition, "end") for after in self.depends_on}
        text = f"the {wanted.get(self.ended_by, 'end')} of task {self.ended_by}"
        state = next(
            (each.state for each in self.dependencies if each.task_id == self.ended_by), None
        )
        if state == TaskState.CANCELLED and wanted.get(self.ended_by) == _WANTED["not_completed"]:
            return f"{text}, which was skipped"
        ended = {TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED}
        return f"{text}, which is {state}" if state in ended else f"{text}, which ended otherwise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """The outcome of cancelling a task."""

    state: TaskState
    """CANCELLED; RUNNING if its worker is asked to stop, and may still finish; else its end."""
    cancelled_at: datetime | None
    message: task_service_pb2.CancelTaskResponse = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: task_service_pb2.CancelTaskResponse) -> Cancellation:
        """Read it from a broker's answer."""
        at = _instant(message.cancelled_at) if message.HasField("cancelled_at") else None
        return cls(state=TaskState(message.state), cancelled_at=at, message=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """The outcome of one call that redrives dead letters."""

    redriven: int
    """How many are PENDING again."""
    skipped_task_ids: tuple[str, ...]
    """Those of the given ids that were left as they are."""
    skipped: Mapping[str, TqError]
    """The same, each with the reason: NotFoundError; InvalidArgumentError, if it is no dead letter,
    or failed only because another task did; ConflictError, if others have started because it
    failed (see ``force``)."""
    remaining_task_ids: tuple[str, ...]
    """Those of the given ids that were too many for one call: redrive them by another."""
    next_page_token: str
    """Of a queue: for the next call; empty at the end."""
    message: queue_service_pb2.RedriveResponse = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """The outcome of one call that deletes dead letters."""

    deleted: int
    skipped_task_ids: tuple[str, ...]
    """Those of the given ids that were left as they are."""
    skipped: Mapping[str, TqError]
    """The same, each with the reason: NotFoundError, InvalidArgumentError if it is no dead letter,
    ConflictError if another task may still need it."""
    remaining_task_ids: tuple[str, ...]
    """Those of the given ids that were too many for one call: make another for them."""
    next_page_token: str
    """Of a queue: for the next call; empty at the end."""
    message: queue_service_pb2.DeleteDeadLettersResponse = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """How a queue hands out its tasks."""

    ordering: Ordering | None = None
    """None is the brokers' default, STRICT."""
    aging: timedelta | None = None
    """With AGING: the wait that counts as one step of priority. None is the brokers' default."""
    paused: bool = False
    """A paused queue hands out no tasks; submits and running tasks go on."""
    etag: str = ""
    """The version of settings that were read, for the ``etag`` of `configure_queue`."""

    @classmethod
    def of(cls, message: queue_service_pb2.QueueSettings) -> QueueSettings:
        """Read them from a broker's answer."""
        return cls(
            ordering=Ordering(message.ordering) if message.ordering else None,
            aging=_span(message.aging) if message.HasField("aging") else None,
            paused=message.paused,
            etag=message.etag,
        )

    @property
    def message(self) -> queue_service_pb2.QueueSettings:
        """The settings as a request holds them."""
        message = queue_service_pb2.QueueSettings(paused=self.paused, etag=self.etag)
        if self.ordering is not None:
            message.ordering = cast("_Ordering", self.ordering)
        if self.aging is not None:
            message.aging.FromTimedelta(self.aging)
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTotals:
    """The counts of a queue since it was created."""

    submitted: int
    claimed: int
    completed: int
    retried: int
    failed: int
    cancelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How many tasks of a queue are in each state, and its settings."""

    queue: str
    blocked: int
    scheduled: int
    pending: int
    running: int
    retrying: int
    completed: int
    failed: int
    cancelled: int
    purging: int
    """How many of the waiting ones are purged: they never start, and become cancelled soon."""
    oldest_pending_at: datetime | None
    settings: QueueSettings
    totals: QueueTotals
    message: queue_service_pb2.QueueStats = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: queue_service_pb2.QueueStats) -> QueueStats:
        """Read them from a broker's answer."""
        oldest = message.oldest_pending_at if message.HasField("oldest_pending_at") else None
        totals = message.totals
        return cls(
            queue=message.queue,
            blocked=message.blocked,
            scheduled=message.scheduled,
            pending=message.pending,
            running=message.running,
            retrying=message.retrying,
            completed=message.completed,
            failed=message.failed,
            cancelled=message.cancelled,
            purging=message.purging,
            oldest_pending_at=None if oldest is None else _instant(oldest),
            settings=QueueSettings.of(message.settings),
            totals=QueueTotals(
                submitted=totals.submitted,
                claimed=totals.claimed,
                completed=totals.completed,
                retried=totals.retried,
                failed=totals.failed,
                cancelled=totals.cancelled,
            ),
            message=message,
        )


_WANTED = {"completed": "success", "not_completed": "failure", "ended": "end"}
"""What a condition waits for, as a noun."""


def _instant(moment: Timestamp) -> datetime:
    return moment.ToDatetime(UTC)


def _span(length: Duration) -> timedelta:
    return length.ToTimedelta()


def _backoff(policy: task_pb2.RetryPolicy) -> Backoff:
    return Backoff(
        first=_span(policy.initial_backoff) if policy.HasField("initial_backoff") else None,
        factor=policy.multiplier or None,
        most=_span(policy.max_backoff) if policy.HasField("max_backoff") else None,
        jitter=not policy.no_jitter,
    )
