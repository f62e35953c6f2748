"""The ledger: what every client and worker saw, recorded as it happened.

A call is recorded when it starts, and again when its answer arrives. A call without an answer stays
*unknown*: it may have been applied, may be applied later, or never. The checker treats it as a
"maybe".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from chaos.history.calls import (
    Answer,
    Call,
    CancelCall,
    ClaimCall,
    DeleteCall,
    Ending,
    Grant,
    HeartbeatCall,
    HeartbeatStatus,
    PauseCall,
    PurgeCall,
    ReadCall,
    RedriveCall,
    Renewal,
    ReportCall,
    ReportStatus,
    SubmitCall,
)
from chaos.history.loss import Loss
from tq.v1 import queue_service_pb2, task_pb2, worker_service_pb2

LEDGER_LABEL = "ledger"
"""The label that identifies the tasks of a submit: ``request_id/item``."""


def ledger_label(request_id: str, item: int) -> str:
    """Name one item of a submit."""
    return f"{request_id}/{item}"


CallT = TypeVar("CallT", bound=Call)


@dataclass(slots=True)
class Ledger:
    """The history of one run, in the order in which calls began."""

    now_s: Callable[[], float]
    """One clock for the whole run; never the wall clock, which faults may set."""
    calls: list[Call] = field(default_factory=list)
    listing: dict[str, str] | None = None
    """The ledger label of every task that the cluster lists at the end; None: never listed."""
    states: dict[str, task_pb2.TaskState.ValueType] = field(default_factory=dict)
    """The state of each task by id, from the same listing."""
    placed: dict[str, str] = field(default_factory=dict)
    """The queue of each task by id, from the same listing."""
    queues: dict[str, queue_service_pb2.QueueStats] = field(default_factory=dict)
    """What the cluster counts, by queue, at the same time; empty: never asked."""
    losses: list[Loss] = field(default_factory=list)
    """Every loss of the cluster for good, after which another took its place."""
    started_s: float = 0.0

    def __post_init__(self) -> None:
        self.started_s = self.now_s()

    def submit(
        self, actor: str, request_id: str, tasks: int, queue: str = "", *, together: bool = False
    ) -> SubmitCall:
        """Write down that a submit is about to be sent; ``queue`` where all go to one."""
        return self._begin(
            SubmitCall(
                actor=actor,
                began_s=self.now_s(),
                request_id=request_id,
                tasks=tasks,
                queue=queue,
                together=together,
            )
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
        """Write down what was read; None if there is no such task."""
        call.task = task
        self._end(call, Answer.APPLIED)

    def cancel(self, actor: str, request_id: str, task_id: str) -> CancelCall:
        """Write down that a task is about to be cancelled."""
        return self._begin(
            CancelCall(actor=actor, began_s=self.now_s(), request_id=request_id, task_id=task_id)
        )

    def cancelled(self, call: CancelCall, state: task_pb2.TaskState.ValueType | None) -> None:
        """Write down the state that was answered; None if there is no such task."""
        call.state = state
        self._end(call, Answer.APPLIED)

    def redrive(
        self, actor: str, request_id: str, *, task_id: str = "", queue: str = ""
    ) -> RedriveCall:
        """Write down that one dead letter, or those of a queue, are about to be redriven."""
        return self._begin(
            RedriveCall(
                actor=actor,
                began_s=self.now_s(),
                request_id=request_id,
                task_id=task_id,
                queue=queue,
            )
        )

    def delete(
        self, actor: str, request_id: str, *, task_id: str = "", queue: str = ""
    ) -> DeleteCall:
        """Write down that one dead letter, or those of a queue, are about to be deleted."""
        return self._begin(
            DeleteCall(
                actor=actor,
                began_s=self.now_s(),
                request_id=request_id,
                task_id=task_id,
                queue=queue,
            )
        )

    def purge(self, actor: str, request_id: str, queue: str, *, at_once: bool = False) -> PurgeCall:
        """Write down that waiting tasks of a queue are about to be cancelled: a slice, or all."""
        return self._begin(
            PurgeCall(
                actor=actor,
                began_s=self.now_s(),
                request_id=request_id,
                queue=queue,
                at_once=at_once,
            )
        )

    def changed(self, call: RedriveCall | DeleteCall | PurgeCall, count: int) -> None:
        """Write down how many tasks a call changed, by its answer."""
        call.count = count
        self._end(call, Answer.APPLIED)

    def pause(self, actor: str, queue: str, *, paused: bool) -> PauseCall:
        """Write down that a queue is about to be paused or resumed."""
        return self._begin(PauseCall(actor=actor, began_s=self.now_s(), queue=queue, paused=paused))

    def configured(self, call: PauseCall) -> None:
        """Write down that the queue is now paused or resumed."""
        self._end(call, Answer.APPLIED)

    def refused(self, call: Call, detail: str) -> None:
        """Write down that a call was answered with a definite no: nothing was applied."""
        call.detail = detail
        self._end(call, Answer.REFUSED)

    def unanswered(self, call: Call, detail: str) -> None:
        """Note why a call stays unknown."""
        call.detail = detail

    def listed(self, tasks: Iterable[task_pb2.Task]) -> None:
        """Write down which tasks the cluster lists after the last submit."""
        listed = list(tasks)
        self.listing = {
            task.spec.task_id: task.spec.labels.get(LEDGER_LABEL, "") for task in listed
        }
        self.states = {task.spec.task_id: task.state for task in listed}
        self.placed = {task.spec.task_id: task.spec.queue for task in listed}

    def counted(self, queues: Iterable[queue_service_pb2.QueueStats]) -> None:
        """Write down what the cluster counts, with no call between this and ``listed``."""
        self.queues = {stats.queue: stats for stats in queues}

    def lost(self, loss: Loss) -> None:
        """Write down that the cluster was lost, and what is certain despite that."""
        self.losses.append(loss)

    def until_lost(self) -> Ledger:
        """What was known when the cluster was lost for the last time."""
        *earlier, last = self.losses
        calls = [
            call
            for call in self.calls
            if call.began_s < last.back_s and not (call.ended_s or 0.0) > last.back_s
        ]
        known = Ledger(self.now_s, calls, losses=earlier)
        known.started_s = self.started_s
        return known

    def calls_since(self, since_s: float) -> Iterator[Call]:
        """The calls that began then or later, the newest first."""
        return takewhile(lambda call: call.began_s >= since_s, reversed(self.calls))

    def unknown(self) -> int:
        """How many calls were never answered."""
        return sum(call.answer is Answer.UNKNOWN for call in self.calls)

    def history(self, task_id: str) -> Iterator[str]:
        """Yield what the ledger knows of one task, one line for each call."""
        told = [
            (call.began_s, call.ended_s, f"{call.actor}: {said}")
            for call in self.calls
            if (said := _describe(call, task_id))
        ]
        told += [
            (loss.gone_s, loss.back_s, self._describe_loss(loss))
            for loss in self.losses
            if told and told[0][0] < loss.back_s
        ]
        for began_s, ended_s, said in sorted(told, key=lambda one: one[0]):
            ended = "..." if ended_s is None else f"{ended_s - self.started_s:.3f}"
            yield f"{began_s - self.started_s:9.3f} to {ended:>8}  {said}"

    def _describe_loss(self, loss: Loss) -> str:
        certain_s = loss.certain_s - self.started_s
        return f"the cluster was lost; what was acknowledged until {certain_s:.3f} is certain"

    def _begin(self, call: CallT) -> CallT:
        self.calls.append(call)
        return call

    def _end(self, call: Call, answer: Answer) -> None:
        call.ended_s = self.now_s()
        call.answer = answer


def _describe(call: Call, task_id: str) -> str:
    """Describe what ``call`` has to do with the task; empty if nothing."""
    ended = call.answer.value if not call.detail else f"{call.answer.value} ({call.detail})"
    if isinstance(call, SubmitCall) and task_id in call.task_ids:
        return f"submit {call.request_id}: {ended}"
    if isinstance(call, ClaimCall):
        tokens = [grant.token for grant in call.grants if grant.task_id == task_id]
        return f"claim {call.request_id}: token {tokens[0]}" if tokens else ""
    if isinstance(call, HeartbeatCall):
        ends = {
            r.token: HeartbeatStatus.Name(r.status) for r in call.renewals if r.task_id == task_id
        }
        return f"heartbeat: {_pairs(ends)}" if ends else ""
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
    if isinstance(call, CancelCall) and call.task_id == task_id:
        told = ended if call.state is None else task_pb2.TaskState.Name(call.state)
        return f"cancel {call.request_id}: {told}"
    if isinstance(call, RedriveCall | DeleteCall) and call.task_id == task_id:
        verb = "redrive" if isinstance(call, RedriveCall) else "delete"
        return f"{verb} {call.request_id}: {ended}, {call.count} changed"
    return ""


def _pairs(values: Mapping[int, str]) -> str:
    return ", ".join(f"token {token} {name}" for token, name in values.items())
