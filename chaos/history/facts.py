"""A ledger sorted for the checks: by request, task and lease."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from chaos.history.calls import (
    Answer,
    CancelCall,
    ClaimCall,
    DeleteCall,
    Grant,
    HeartbeatCall,
    PauseCall,
    PurgeCall,
    ReadCall,
    RedriveCall,
    Renewal,
    ReportCall,
    SubmitCall,
)
from chaos.history.loss import counted
from chaos.history.record import Ledger


@dataclass(slots=True)
class LeaseFacts:
    """What is known of one lease, from its holder's calls."""

    token: int
    granted: list[tuple[ClaimCall, Grant]] = field(default_factory=list)
    renewals: list[tuple[HeartbeatCall, Renewal]] = field(default_factory=list)
    reports: list[ReportCall] = field(default_factory=list)

    def accepted(self) -> list[ReportCall]:
        """The reports that were answered as recorded."""
        return [report for report in self.reports if report.accepted]


@dataclass(slots=True)
class TaskFacts:
    """What is known of one task."""

    task_id: str
    request_ids: set[str] = field(default_factory=set)
    acknowledged_by_s: float = float("inf")
    leases: dict[int, LeaseFacts] = field(default_factory=dict)
    reads: list[ReadCall] = field(default_factory=list)
    cancels: list[CancelCall] = field(default_factory=list)
    dead_letter_calls: list[RedriveCall | DeleteCall] = field(default_factory=list)
    """The calls that name this task."""

    def lease(self, token: int) -> LeaseFacts:
        """Return the lease; add it if it is not known yet."""
        return self.leases.setdefault(token, LeaseFacts(token))

    def in_token_order(self) -> list[LeaseFacts]:
        """The leases that any answer named, by token."""
        return [self.leases[token] for token in sorted(self.leases)]

    def last_read(self) -> ReadCall | None:
        """The answered read that began last."""
        return max(self.reads, key=lambda read: read.began_s, default=None)


class Facts:
    """The whole ledger, sorted; if a cluster was lost, only what still counts."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.submits: dict[str, list[SubmitCall]] = defaultdict(list)
        self.tasks: dict[str, TaskFacts] = {}
        self.claim_began_s: dict[str, float] = {}
        """By request id: when the claim was first sent."""
        self.unanswered_claims: dict[str, list[float]] = defaultdict(list)
        """By worker: when claims were sent that may have been granted tasks without an answer."""
        self.sweeps: list[PurgeCall | RedriveCall | DeleteCall] = []
        """The calls on whole queues."""
        self.pauses: list[PauseCall] = []
        for call in counted(ledger.calls, ledger.losses):
            match call:
                case SubmitCall():
                    self._submit(call)
                case ClaimCall():
                    self.claim_began_s.setdefault(call.request_id, call.began_s)
                    # A broker that forwards a claim may repeat it; the answer then says only that
                    # the first grant was lost again.
                    if call.answer is Answer.UNKNOWN or call.lost_task_ids:
                        self.unanswered_claims[call.actor].append(call.began_s)
                    for grant in call.grants:
                        self.task(grant.task_id).lease(grant.token).granted.append((call, grant))
                case HeartbeatCall():
                    for renewal in call.renewals:
                        lease = self.task(renewal.task_id).lease(renewal.token)
                        lease.renewals.append((call, renewal))
                case ReportCall():
                    self.task(call.task_id).lease(call.token).reports.append(call)
                case ReadCall() if call.answer is Answer.APPLIED:
                    self.task(call.task_id).reads.append(call)
                case CancelCall():
                    self.task(call.task_id).cancels.append(call)
                case RedriveCall() | DeleteCall() if call.task_id:
                    self.task(call.task_id).dead_letter_calls.append(call)
                case PurgeCall() | RedriveCall() | DeleteCall():
                    self.sweeps.append(call)
                case PauseCall():
                    self.pauses.append(call)
        for task_id in ledger.listing or ():
            self.task(task_id)

    def task(self, task_id: str) -> TaskFacts:
        """Return the task; add it if it is not known yet."""
        return self.tasks.setdefault(task_id, TaskFacts(task_id))

    def acknowledged(self) -> Iterable[TaskFacts]:
        """The tasks whose submit was answered."""
        return (task for task in self.tasks.values() if task.request_ids)

    def requests_of(self, task: TaskFacts) -> set[str]:
        """The requests that created the task, or may have: by their answers, or by its label."""
        label = (self.ledger.listing or {}).get(task.task_id, "")
        named = label.rpartition("/")[0]
        return task.request_ids | ({named} if named in self.submits else set())

    def queues_of(self, task: TaskFacts) -> set[str]:
        """Its queue, from any answer that names it; empty if none does."""
        listed = self.ledger.placed.get(task.task_id)
        if listed is not None:
            return {listed}
        sent = {call.queue for request_id in task.request_ids for call in self.submits[request_id]}
        read = {read.task.spec.queue for read in task.reads if read.task is not None}
        return (sent | read) - {""}

    def is_in(self, task: TaskFacts, queue: str) -> bool:
        """Whether a task is known to be in a queue."""
        return self.queues_of(task) == {queue}

    def may_be_in(self, task: TaskFacts, queue: str) -> bool:
        """Whether the ledger allows that a task is in a queue."""
        return self.queues_of(task) <= {queue}

    def may_be_deleted(self, task: TaskFacts) -> bool:
        """Whether a deletion that may have included the task was sent."""
        named = any(isinstance(call, DeleteCall) for call in task.dead_letter_calls)
        return named or any(
            isinstance(call, DeleteCall) and self.may_be_in(task, call.queue)
            for call in self.sweeps
        )

    def _submit(self, call: SubmitCall) -> None:
        self.submits[call.request_id].append(call)
        if call.answer is Answer.APPLIED:
            for task_id in call.task_ids:
                if task_id is not None:
                    task = self.task(task_id)
                    task.request_ids.add(call.request_id)
                    task.acknowledged_by_s = min(task.acknowledged_by_s, call.known_by_s)
