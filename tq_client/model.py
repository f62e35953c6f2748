"""What brokers answer about tasks and queues, in Python's types.

Instants are aware datetimes in UTC, lengths of time are timedeltas; absent values are None. The
``message`` of each is the protobuf message from the broker, with every field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2
from tq.v1.task_options import TaskFields, task_fields
from tq_client.enums import AttemptEnd, FailureReason, Ordering, TaskState
from tq_client.specs import Backoff

if TYPE_CHECKING:
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
class Task(TaskFields):
    """A task as a broker describes it; a listing leaves out payload, result and attempts."""

    queue: str
    type: str
    state: TaskState
    payload: bytes
    retries: int | None
    """How many attempts may follow the first; None is the brokers' default, 4."""
    backoff: Backoff | None
    """How long the task waits before each retry; None is the brokers' default."""
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
            submitted_at=_instant(message.submitted_at),
            due_at=_instant(message.due_at) if message.HasField("due_at") else None,
            finished_at=_instant(message.finished_at) if message.HasField("finished_at") else None,
            attempts_made=message.attempts_made,
            attempts=tuple(map(Attempt.of, message.attempts)),
            failure_reason=(
                FailureReason(message.failure_reason) if message.failure_reason else None
            ),
            last_error=message.last_error,
            result=message.result,
            result_content_type=message.result_content_type,
            cancel_requested=message.cancel_requested,
            redrives=message.redrives,
            message=message,
        )


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
