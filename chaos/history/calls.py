"""The calls that clients and workers make, as a history records them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from tq.v1 import task_pb2, worker_service_pb2


class Answer(enum.Enum):
    """The outcome of a call, as its caller knows it."""

    UNKNOWN = "unknown"
    APPLIED = "applied"
    REFUSED = "refused"
    """Definitely not applied."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call on the wire; a retry is another call. Times are of one monotonic clock."""

    actor: str
    began_s: float
    ended_s: float | None = None
    answer: Answer = Answer.UNKNOWN
    detail: str = ""

    @property
    def known_by_s(self) -> float:
        """The latest time at which it took effect."""
        return float("inf") if self.ended_s is None else self.ended_s


@dataclass(slots=True, kw_only=True)
class SubmitCall(Call):
    """``task_ids`` has None where an item was refused."""

    request_id: str
    tasks: int
    queue: str = ""
    together: bool = False
    """Whether its tasks are created all or none, and may wait for each other."""
    task_ids: Sequence[str | None] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One task of a claim's answer."""

    task_id: str
    token: int
    attempt: int
    lease_s: float
    waited_s: float


@dataclass(slots=True, kw_only=True)
class ClaimCall(Call):
    """The actor is the worker's id."""

    request_id: str
    grants: Sequence[Grant] = ()
    lost_task_ids: Sequence[str] = ()


HeartbeatStatus = worker_service_pb2.HeartbeatResult.Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """One lease of a heartbeat's answer."""

    task_id: str
    token: int
    status: HeartbeatStatus.ValueType
    lease_s: float

    @property
    def renewed(self) -> bool:
        """Whether the lease was live and is longer now."""
        return self.status in {
            HeartbeatStatus.STATUS_RENEWED,
            HeartbeatStatus.STATUS_CANCEL_REQUESTED,
        }


@dataclass(slots=True, kw_only=True)
class HeartbeatCall(Call):
    """The actor is the worker's id."""

    renewals: Sequence[Renewal] = ()


class Ending(enum.Enum):
    """What a worker reports of an attempt."""

    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"
    PAUSE = "release for a while"


ReportStatus = worker_service_pb2.ReportResult.Status


@dataclass(slots=True, kw_only=True)
class ReportCall(Call):
    """A report of one attempt's end. ``status`` and ``state`` are valid once it is answered."""

    task_id: str
    token: int
    ending: Ending
    result: bytes = b""
    status: ReportStatus.ValueType = ReportStatus.STATUS_UNSPECIFIED
    state: task_pb2.TaskState.ValueType = task_pb2.TASK_STATE_UNSPECIFIED

    @property
    def accepted(self) -> bool:
        """Whether the answer said that this report is the recorded one."""
        return self.status in {
            ReportStatus.STATUS_RECORDED,
            ReportStatus.STATUS_ALREADY_RECORDED,
        }


@dataclass(slots=True, kw_only=True)
class ReadCall(Call):
    """A linearizable GetTask. ``task`` counts once it is APPLIED: None is NOT_FOUND."""

    task_id: str
    task: task_pb2.Task | None = None


@dataclass(slots=True, kw_only=True)
class CancelCall(Call):
    """``state`` is valid once it is APPLIED: the state in the answer; None: no such task."""

    task_id: str
    request_id: str
    state: task_pb2.TaskState.ValueType | None = None


@dataclass(slots=True, kw_only=True)
class RedriveCall(Call):
    """One dead letter by its id, or those of a queue. ``count`` counts once it is APPLIED."""

    request_id: str
    task_id: str = ""
    queue: str = ""
    count: int = 0


@dataclass(slots=True, kw_only=True)
class DeleteCall(Call):
    """One dead letter by its id, or those of a queue. ``count`` counts once it is APPLIED."""

    request_id: str
    task_id: str = ""
    queue: str = ""
    count: int = 0


@dataclass(slots=True, kw_only=True)
class PurgeCall(Call):
    """One slice of a purge. ``count`` counts once it is APPLIED."""

    request_id: str
    queue: str
    count: int = 0
    at_once: bool = False
    """Of the whole queue: its tasks may be shown as waiting for a while after the answer."""


@dataclass(slots=True, kw_only=True)
class PauseCall(Call):
    """A call that pauses or resumes a queue."""

    queue: str
    paused: bool
