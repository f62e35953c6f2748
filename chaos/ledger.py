"""What every client and worker saw, written down as it happened.

A call is written down when it starts, and again when its answer is there. A call without an answer
stays *unknown*: it may have been applied, may yet be, or never. The checker takes it as "maybe".
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from tq.v1 import task_pb2, worker_service_pb2

LEDGER_LABEL = "ledger"
"""The label by which the tasks of a submit are found again: ``request_id/item``."""


def ledger_label(request_id: str, item: int) -> str:
    """Name one item of a submit."""
    return f"{request_id}/{item}"


class Answer(enum.Enum):
    """What became of a call, as its caller knows it."""

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
        """When its effect was there at the latest."""
        return float("inf") if self.ended_s is None else self.ended_s


@dataclass(slots=True, kw_only=True)
class SubmitCall(Call):
    """``task_ids`` has None where an item was refused."""

    request_id: str
    tasks: int
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


ReportStatus = worker_service_pb2.ReportResult.Status


@dataclass(slots=True, kw_only=True)
class ReportCall(Call):
    """One attempt's end, reported alone. ``status`` and ``state`` count once it is answered."""

    task_id: str
    token: int
    ending: Ending
    result: bytes = b""
    status: ReportStatus.ValueType = ReportStatus.STATUS_UNSPECIFIED
    state: task_pb2.TaskState.ValueType = task_pb2.TASK_STATE_UNSPECIFIED

    @property
    def accepted(self) -> bool:
        """Whether the worker was told that its report is the recorded one."""
        return self.status in {
            ReportStatus.STATUS_RECORDED,
            ReportStatus.STATUS_ALREADY_RECORDED,
        }


@dataclass(slots=True, kw_only=True)
class ReadCall(Call):
    """A linearizable GetTask. ``task`` counts once it is APPLIED: None is NOT_FOUND."""

    task_id: str
    task: task_pb2.Task | None = None


CallT = TypeVar("CallT", bound=Call)


@dataclass(slots=True)
class Ledger:
    """The history of one run, in the order in which calls began."""

    now_s: Callable[[], float] = time.monotonic
    calls: list[Call] = field(default_factory=list)
    listing: dict[str, str] | None = None
    """The ledger label of every task that the cluster lists at the end; None: it was not asked."""
    started_s: float = 0.0

    def __post_init__(self) -> None:
        self.started_s = self.now_s()

    def submit(self, actor: str, request_id: str, tasks: int) -> SubmitCall:
        """Write down that a submit is about to be sent."""
        return self._begin(
            SubmitCall(actor=actor, began_s=self.now_s(), request_id=request_id, tasks=tasks)
        )

    def submitted(self, call: SubmitCall, task_ids: Sequence[str | None]) -> None:
        """Write down the answer to a submit."""
        call.task_ids = tuple(task_ids)
        self._end(call, Answer.APPLIED)

    def claim(self, worker_id: str, request_id: str) -> ClaimCall:
        """Write down that a claim is about to be sent."""
        return self._begin(ClaimCall(actor=worker_id, began_s=self.now_s(), request_id=request_id))

    def claimed(self, call: ClaimCall, response: worker_service_pb2.ClaimResponse) -> None:
        """Write down the answer to a claim."""
        call.grants = tuple(
            Grant(
                task_id=task.spec.task_id,
                token=task.token,
                attempt=task.attempt,
                lease_s=task.lease.ToNanoseconds() / 1e9,
                waited_s=task.waited.ToNanoseconds() / 1e9,
            )
            for task in response.tasks
        )
        call.lost_task_ids = tuple(response.lost_task_ids)
        self._end(call, Answer.APPLIED)

    def heartbeat(self, worker_id: str) -> HeartbeatCall:
        """Write down that a heartbeat is about to be sent."""
        return self._begin(HeartbeatCall(actor=worker_id, began_s=self.now_s()))

    def renewed(
        self,
        call: HeartbeatCall,
        request: worker_service_pb2.HeartbeatRequest,
        response: worker_service_pb2.HeartbeatResponse,
    ) -> None:
        """Write down the answer to a heartbeat."""
        call.renewals = tuple(
            Renewal(
                task_id=lease.task_id,
                token=lease.token,
                status=result.status,
                lease_s=result.lease.ToNanoseconds() / 1e9,
            )
            for lease, result in zip(request.leases, response.results, strict=True)
        )
        self._end(call, Answer.APPLIED)

    def report(
        self, worker_id: str, task_id: str, token: int, ending: Ending, result: bytes = b""
    ) -> ReportCall:
        """Write down that a report of one attempt is about to be sent."""
        return self._begin(
            ReportCall(
                actor=worker_id,
                began_s=self.now_s(),
                task_id=task_id,
                token=token,
                ending=ending,
                result=result,
            )
        )

    def reported(self, call: ReportCall, result: worker_service_pb2.ReportResult) -> None:
        """Write down the answer to a report."""
        call.status = result.status
        call.state = result.state
        self._end(call, Answer.APPLIED if call.accepted else Answer.REFUSED)

    def read(self, actor: str, task_id: str) -> ReadCall:
        """Write down that a task is about to be read, linearizably."""
        return self._begin(ReadCall(actor=actor, began_s=self.now_s(), task_id=task_id))

    def found(self, call: ReadCall, task: task_pb2.Task | None) -> None:
        """Write down what was read; None when there is no such task."""
        call.task = task
        self._end(call, Answer.APPLIED)

    def refused(self, call: Call, detail: str) -> None:
        """Write down that a call was answered with a definite no: nothing was applied."""
        call.detail = detail
        self._end(call, Answer.REFUSED)

    def unanswered(self, call: Call, detail: str) -> None:
        """Note why a call stays unknown."""
        call.detail = detail

    def listed(self, tasks: Iterable[task_pb2.Task]) -> None:
        """Write down which tasks the cluster lists, once nothing is submitted any more."""
        self.listing = {task.spec.task_id: task.spec.labels.get(LEDGER_LABEL, "") for task in tasks}

    def calls_since(self, since_s: float) -> Iterator[Call]:
        """The calls that began then or later, the newest first."""
        return takewhile(lambda call: call.began_s >= since_s, reversed(self.calls))

    def unknown(self) -> int:
        """How many calls were never answered."""
        return sum(call.answer is Answer.UNKNOWN for call in self.calls)

    def history(self, task_id: str) -> Iterator[str]:
        """Tell what the ledger knows of one task, a line a call."""
        for call in self.calls:
            said = _describe(call, task_id)
            if said:
                ended = "..." if call.ended_s is None else f"{call.ended_s - self.started_s:.3f}"
                yield f"{call.began_s - self.started_s:9.3f} to {ended:>8}  {call.actor}: {said}"

    def _begin(self, call: CallT) -> CallT:
        self.calls.append(call)
        return call

    def _end(self, call: Call, answer: Answer) -> None:
        call.ended_s = self.now_s()
        call.answer = answer


def _describe(call: Call, task_id: str) -> str:
    """Say what ``call`` has to do with the task; empty when nothing."""
    ended = call.answer.value if not call.detail else f"{call.answer.value} ({call.detail})"
    if isinstance(call, SubmitCall) and task_id in call.task_ids:
        return f"submit {call.request_id}: {ended}"
    if isinstance(call, ClaimCall):
        tokens = [grant.token for grant in call.grants if grant.task_id == task_id]
        return f"claim {call.request_id}: token {tokens[0]}" if tokens else ""
    if isinstance(call, HeartbeatCall):
        states = {
            r.token: HeartbeatStatus.Name(r.status) for r in call.renewals if r.task_id == task_id
        }
        return f"heartbeat: {_pairs(states)}" if states else ""
    if isinstance(call, ReportCall) and call.task_id == task_id:
        status = ReportStatus.Name(call.status) if call.status else ended
        return f"report {call.ending.value} with token {call.token}: {status}"
    if isinstance(call, ReadCall) and call.task_id == task_id:
        if call.answer is not Answer.APPLIED:
            return f"read: {ended}"
        if call.task is None:
            return "read: not found"
        ends = {a.token: task_pb2.Attempt.End.Name(a.end) for a in call.task.attempts}
        return f"read: {task_pb2.TaskState.Name(call.task.state)}, {_pairs(ends) or 'no attempts'}"
    return ""


def _pairs(values: Mapping[int, str]) -> str:
    return ", ".join(f"token {token} {name}" for token, name in values.items())
