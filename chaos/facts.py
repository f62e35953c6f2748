"""A ledger sorted by what the checks ask about: requests, tasks, leases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from chaos.ledger import (
    Answer,
    ClaimCall,
    Grant,
    HeartbeatCall,
    Ledger,
    ReadCall,
    Renewal,
    ReportCall,
    SubmitCall,
)


@dataclass(slots=True)
class LeaseFacts:
    """What is known of one lease, from its holder's calls."""

    token: int
    granted: list[tuple[ClaimCall, Grant]] = field(default_factory=list)
    renewals: list[tuple[HeartbeatCall, Renewal]] = field(default_factory=list)
    reports: list[ReportCall] = field(default_factory=list)

    def accepted(self) -> list[ReportCall]:
        """The reports whose sender was told that they are recorded."""
        return [report for report in self.reports if report.accepted]


@dataclass(slots=True)
class TaskFacts:
    """What is known of one task."""

    task_id: str
    request_ids: set[str] = field(default_factory=set)
    acknowledged_by_s: float = float("inf")
    leases: dict[int, LeaseFacts] = field(default_factory=dict)
    reads: list[ReadCall] = field(default_factory=list)

    def lease(self, token: int) -> LeaseFacts:
        """Return the lease, known from now on."""
        return self.leases.setdefault(token, LeaseFacts(token))

    def in_token_order(self) -> list[LeaseFacts]:
        """The leases that anybody heard of, by token."""
        return [self.leases[token] for token in sorted(self.leases)]

    def last_read(self) -> ReadCall | None:
        """The answered read that began last."""
        return max(self.reads, key=lambda read: read.began_s, default=None)


class Facts:
    """The whole ledger, sorted."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.submits: dict[str, list[SubmitCall]] = defaultdict(list)
        self.tasks: dict[str, TaskFacts] = {}
        for call in ledger.calls:
            match call:
                case SubmitCall():
                    self._submit(call)
                case ClaimCall():
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
        for task_id in ledger.listing or ():
            self.task(task_id)

    def task(self, task_id: str) -> TaskFacts:
        """Return the task, known from now on."""
        return self.tasks.setdefault(task_id, TaskFacts(task_id))

    def acknowledged(self) -> Iterable[TaskFacts]:
        """The tasks whose submit was answered."""
        return (task for task in self.tasks.values() if task.request_ids)

    def _submit(self, call: SubmitCall) -> None:
        self.submits[call.request_id].append(call)
        if call.answer is Answer.APPLIED:
            for task_id in call.task_ids:
                if task_id is not None:
                    task = self.task(task_id)
                    task.request_ids.add(call.request_id)
                    task.acknowledged_by_s = min(task.acknowledged_by_s, call.known_by_s)
