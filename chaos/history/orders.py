"""I6: the operations on one task, from all calls, and a check that an order explains them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.history import operations as ops
from chaos.history.calls import (
    Answer,
    DeleteCall,
    Ending,
    HeartbeatStatus,
    PurgeCall,
    ReadCall,
    RedriveCall,
    ReportCall,
    ReportStatus,
)
from chaos.history.facts import Facts, LeaseFacts, TaskFacts
from chaos.history.linearizability import Stuck, explain
from chaos.history.violation import Violation
from tq.v1 import task_pb2

FOREVER = float("inf")
TOLD_MAX = 3
_TAKEN = frozenset(
    {
        ReportStatus.STATUS_RECORDED,
        ReportStatus.STATUS_ALREADY_RECORDED,
        ReportStatus.STATUS_CANCELLED,
    }
)
_SWEEPS: dict[type, str] = {PurgeCall: "purge", RedriveCall: "redrive", DeleteCall: "delete"}


def contradiction(facts: Facts, task: TaskFacts) -> Violation | None:
    """Return the violation if no order of the task's operations explains every answer."""
    stuck = explain(operations_of(facts, task))
    if stuck is None:
        return None
    return Violation("I6", f"task {task.task_id}: {_told(stuck, facts)}", task.task_id)


def operations_of(facts: Facts, task: TaskFacts) -> list[ops.Operation]:
    """Every operation that was done to a task, or may have been."""
    return [
        *_creations(facts, task),
        *_leases(facts, task),
        *_reads(task),
        *_cancels(task),
        *_by_id(task),
        *_sweeps(facts, task),
        *_losses(facts),
    ]


def _creations(facts: Facts, task: TaskFacts) -> Iterator[ops.Operation]:
    calls = [call for request_id in facts.requests_of(task) for call in facts.submits[request_id]]
    sent = [call.began_s for call in calls if call.answer is not Answer.REFUSED]
    acknowledged = task.acknowledged_by_s < FOREVER
    yield ops.Create(
        began_s=min(sent, default=-FOREVER),
        known_by_s=task.acknowledged_by_s,
        what="the submit",
        certain=acknowledged,
        may_wait=any(call.together for call in calls),
    )


def _leases(facts: Facts, task: TaskFacts) -> Iterator[ops.Operation]:
    shown = {
        attempt.token: attempt.worker_id
        for read in task.reads
        if read.task is not None
        for attempt in read.task.attempts
    }
    for token in sorted(shown.keys() | task.leases.keys()):
        lease = task.leases.get(token, LeaseFacts(token))
        yield _grant(facts, lease, shown.get(token, ""))
        yield from _renewals(lease)
        yield from _reports(lease)


def _grant(facts: Facts, lease: LeaseFacts, worker_id: str) -> ops.Operation:
    """The claim that was answered with the lease, or any unanswered one: some worker holds it."""
    what = f"the grant of token {lease.token}"
    if not lease.granted:
        unanswered = facts.unanswered_claims.get(worker_id, ())
        if not worker_id:
            unanswered = [began for many in facts.unanswered_claims.values() for began in many]
        return ops.Grant(
            began_s=min(unanswered, default=FOREVER),
            known_by_s=FOREVER,
            what=what,
            certain=False,
            token=lease.token,
            stranded=True,
        )
    request_ids = {claim.request_id for claim, _ in lease.granted}
    known_by_s = min(claim.known_by_s for claim, _ in lease.granted)
    return ops.Grant(
        began_s=min(facts.claim_began_s[request_id] for request_id in request_ids),
        known_by_s=known_by_s,
        what=what,
        certain=known_by_s < FOREVER,
        token=lease.token,
    )


def _renewals(lease: LeaseFacts) -> Iterator[ops.Operation]:
    answered = [claim for claim, _ in lease.granted if claim.answer is Answer.APPLIED]
    for claim in answered[1:]:
        yield ops.Holds(
            began_s=claim.began_s,
            known_by_s=claim.known_by_s,
            what=f"the repeated claim of token {lease.token}",
            token=lease.token,
        )
    for beat, renewal in lease.renewals:
        if renewal.renewed:
            yield ops.Holds(
                began_s=beat.began_s,
                known_by_s=beat.known_by_s,
                what=f"the renewal of token {lease.token}",
                token=lease.token,
                cancel_requested=renewal.status == HeartbeatStatus.STATUS_CANCEL_REQUESTED,
            )
        else:
            yield ops.HoldsNot(
                began_s=beat.began_s,
                known_by_s=beat.known_by_s,
                what=f'the "lease lost" for token {lease.token}',
                token=lease.token,
            )


def _reports(lease: LeaseFacts) -> Iterator[ops.Operation]:
    maybe: dict[tuple[Ending, bytes], float] = {}
    for call in lease.reports:
        if call.answer is Answer.UNKNOWN:
            key = (call.ending, call.result)
            maybe[key] = min(call.began_s, maybe.get(key, FOREVER))
        elif call.status:
            yield _answered(call)
    for (ending, result), began_s in maybe.items():
        yield ops.Recorded(
            began_s=began_s,
            known_by_s=FOREVER,
            what=f"the unanswered {ending.value} with token {lease.token}",
            certain=False,
            token=lease.token,
            ending=ending,
            result=result,
            state=None,
        )


def _answered(call: ReportCall) -> ops.Operation:
    what = f"the {call.ending.value} with token {call.token}"
    began_s, known_by_s, token = call.began_s, call.known_by_s, call.token
    if call.status in _TAKEN:
        first = call.status != ReportStatus.STATUS_ALREADY_RECORDED
        make = ops.Recorded if first else ops.WasRecorded
        return make(
            began_s=began_s,
            known_by_s=known_by_s,
            what=what if first else f'the "already recorded" of {what}',
            token=token,
            ending=call.ending,
            result=call.result,
            state=call.state,
        )
    match call.status:
        case ReportStatus.STATUS_NOT_FOUND:
            what = f'the "no such task" of {what}'
            return ops.Missing(began_s=began_s, known_by_s=known_by_s, what=what)
        case ReportStatus.STATUS_REFUSED:
            what = f'the "refused" of {what}'
            return ops.Holds(began_s=began_s, known_by_s=known_by_s, what=what, token=token)
        case _:
            what = f'the "lease lost" of {what}'
            return ops.HoldsNot(
                began_s=began_s, known_by_s=known_by_s, what=what, token=token, unreported=True
            )


def _reads(task: TaskFacts) -> Iterator[ops.Operation]:
    for read in task.reads:
        if read.task is None:
            yield ops.Missing(
                began_s=read.began_s, known_by_s=read.known_by_s, what="a read that found nothing"
            )
        else:
            yield _seen(read, read.task)


def _seen(read: ReadCall, task: task_pb2.Task) -> ops.Operation:
    state = task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_")
    return ops.Seen(
        began_s=read.began_s,
        known_by_s=read.known_by_s,
        what=f"a read of {state} after {len(task.attempts)} attempts",
        state=task.state,
        attempts=tuple((attempt.token, attempt.end) for attempt in task.attempts),
        result=task.result,
        cancel_requested=task.cancel_requested,
        redrives=task.redrives,
    )


def _cancels(task: TaskFacts) -> Iterator[ops.Operation]:
    maybe: dict[str, float] = {}
    for call in task.cancels:
        if call.answer is Answer.UNKNOWN:
            maybe[call.request_id] = min(call.began_s, maybe.get(call.request_id, FOREVER))
        elif call.answer is Answer.APPLIED and call.state is None:
            yield ops.Missing(
                began_s=call.began_s,
                known_by_s=call.known_by_s,
                what="a cancel that found nothing",
            )
        elif call.answer is Answer.APPLIED:
            yield ops.Cancel(
                began_s=call.began_s,
                known_by_s=call.known_by_s,
                what="a cancel",
                request_id=call.request_id,
                state=call.state,
            )
    for request_id, began_s in maybe.items():
        yield ops.Cancel(
            began_s=began_s,
            known_by_s=FOREVER,
            what="an unanswered cancel",
            certain=False,
            request_id=request_id,
            state=None,
        )


def _by_id(task: TaskFacts) -> Iterator[ops.Operation]:
    """Redrives and deletions that name this task."""
    maybe: dict[tuple[str, str], float] = {}
    for call in task.dead_letter_calls:
        kind = _SWEEPS[type(call)]
        make = ops.Redrive if kind == "redrive" else ops.Delete
        if call.answer is Answer.UNKNOWN:
            key = (kind, call.request_id)
            maybe[key] = min(call.began_s, maybe.get(key, FOREVER))
        elif call.answer is Answer.APPLIED:
            yield make(
                began_s=call.began_s,
                known_by_s=call.known_by_s,
                what=f"a {kind}",
                request_id=call.request_id,
                done=call.count > 0,
            )
    for (kind, request_id), began_s in maybe.items():
        make = ops.Redrive if kind == "redrive" else ops.Delete
        yield make(
            began_s=began_s,
            known_by_s=FOREVER,
            what=f"an unanswered {kind}",
            certain=False,
            request_id=request_id,
            done=None,
        )


def _sweeps(facts: Facts, task: TaskFacts) -> Iterator[ops.Operation]:
    """Calls on whole queues that may have included this task."""
    sent: dict[str, list[PurgeCall | RedriveCall | DeleteCall]] = defaultdict(list)
    for call in facts.sweeps:
        if call.answer is not Answer.REFUSED and facts.may_be_in(task, call.queue):
            sent[call.request_id].append(call)
    for request_id, calls in sent.items():
        kind = _SWEEPS[type(calls[0])]
        answered = [
            call.known_by_s
            for call in calls
            if call.answer is Answer.APPLIED and not (isinstance(call, PurgeCall) and call.at_once)
        ]
        yield ops.Sweep(
            began_s=min(call.began_s for call in calls),
            known_by_s=min(answered, default=FOREVER),
            what=f"a {kind} of the queue",
            certain=bool(answered),
            request_id=request_id,
            kind=kind,
        )


def _losses(facts: Facts) -> Iterator[ops.Operation]:
    for loss in facts.ledger.losses:
        yield ops.NewCluster(
            began_s=loss.gone_s,
            known_by_s=loss.back_s,
            what="the recovery" if loss.quarantined else "the restore",
            quarantined=loss.quarantined,
        )


def _told(stuck: Stuck, facts: Facts) -> str:
    start_s = facts.ledger.started_s
    if stuck.exhausted:
        return "the search for an order was given up: too many calls were never answered"
    states = sorted(
        {
            task_pb2.TaskState.Name(state.state).removeprefix("TASK_STATE_")
            for state in stuck.possible
        }
    )
    refused = [
        f"{one.what} ({one.began_s - start_s:.3f} s to {one.known_by_s - start_s:.3f} s)"
        for one in stuck.refused[:TOLD_MAX]
    ]
    more = len(stuck.refused) - len(refused)
    names = ", ".join(state.replace("UNSPECIFIED", "not there") for state in states)
    return (
        f"no order of its calls explains every answer: {stuck.placed} of them can be placed, after"
        f" which it is {names}; that contradicts {' and '.join(refused)}"
        f"{f' and {more} more' if more > 0 else ''}"
    )
