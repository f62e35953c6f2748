"""I1 to I5 and I8, each checked against what is known of requests, tasks and leases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.history.calls import Answer, Ending, ReadCall, ReportCall, ReportStatus, SubmitCall
from chaos.history.facts import Facts, TaskFacts
from chaos.history.lease_spans import CLOCK_MARGIN, belief
from chaos.history.model import TERMINAL
from chaos.history.record import ledger_label
from chaos.history.violation import Violation
from tq.v1 import task_pb2

ATTEMPTS_KEPT = 50


def _violation(invariant: str, task: TaskFacts, message: str) -> Violation:
    return Violation(invariant, f"task {task.task_id}: {message}", task.task_id)


def not_lost(facts: Facts, task: TaskFacts) -> Iterator[Violation]:
    """I1: every call that looks after the acknowledgement finds the task."""
    if not task.request_ids or facts.may_be_deleted(task):
        return
    for read in task.reads:
        if read.task is None and read.began_s > task.acknowledged_by_s:
            yield _violation("I1", task, "was acknowledged and is not found")
            return
    if facts.ledger.listing is not None and task.task_id not in facts.ledger.listing:
        yield _violation("I1", task, "was acknowledged and is not listed")
    for lease in task.leases.values():
        # If the grant is lost the task may be too, until its submit is repeated.
        granted = any(call.answer is Answer.APPLIED for call, _ in lease.granted)
        if any(
            call.status == ReportStatus.STATUS_NOT_FOUND
            and (granted or call.began_s > task.acknowledged_by_s)
            for call in lease.reports
        ):
            yield _violation("I1", task, "was claimed and its report found no such task")


def requests(facts: Facts) -> Iterator[Violation]:
    """I2: what each request id created."""
    for request_id, calls in facts.submits.items():
        answers = {tuple(call.task_ids) for call in calls if call.answer is Answer.APPLIED}
        if len(answers) > 1:
            told = " and ".join(str(list(answer)) for answer in sorted(answers, key=str))
            yield Violation("I2", f"request {request_id} was answered with {told}")
    for task in facts.acknowledged():
        if len(task.request_ids) > 1:
            ids = ", ".join(sorted(task.request_ids))
            yield _violation("I2", task, f"was created by several requests: {ids}")
    if facts.ledger.listing is not None:
        yield from _listed_requests(facts, facts.ledger.listing)


def _listed_requests(facts: Facts, listing: dict[str, str]) -> Iterator[Violation]:
    created = defaultdict(list)
    for task_id, label in listing.items():
        created[label].append(task_id)
    for label, task_ids in created.items():
        request_id = label.rpartition("/")[0]
        calls = facts.submits.get(request_id, [])
        if len(task_ids) > 1:
            yield Violation("I2", f"{label} was created {len(task_ids)} times: {task_ids}")
        elif not calls:
            yield Violation("I2", f"task {task_ids[0]} ({label!r}) was submitted by nobody")
        elif all(call.answer is Answer.REFUSED for call in calls):
            yield Violation("I2", f"{label} was refused and exists all the same: {task_ids[0]}")
    for request_id, calls in facts.submits.items():
        yield from _half_created(request_id, calls, created)


def _half_created(
    request_id: str, calls: list[SubmitCall], created: dict[str, list[str]]
) -> Iterator[Violation]:
    """A submit whose answer was never seen is there as a whole or not at all."""
    if any(call.answer is Answer.APPLIED for call in calls):
        return
    tasks = calls[0].tasks
    there = [item for item in range(tasks) if created.get(ledger_label(request_id, item))]
    if there and len(there) < tasks:
        yield Violation("I2", f"request {request_id} created only its items {there} of {tasks}")


def leases(facts: Facts, task: TaskFacts) -> Iterator[Violation]:
    """I3: a lease has one holder, and holders never overlap."""
    held = []
    for lease in task.in_token_order():
        workers = {claim.actor for claim, _ in lease.granted}
        if len(workers) > 1:
            names = ", ".join(sorted(workers))
            yield _violation("I3", task, f"token {lease.token} was given to {names}")
        believed = belief(lease)
        if believed is not None:
            held.append(believed)
    start = facts.ledger.started_s
    for index, later in enumerate(held):
        for earlier in held[:index]:
            if earlier.overlaps(later):
                yield _violation(
                    "I3",
                    task,
                    f"two holders at once: {earlier.worker_id} (token {earlier.token}) until"
                    f" {earlier.until_s - start:.3f} s, {later.worker_id} (token {later.token})"
                    f" from {later.from_s - start:.3f} s",
                )


def expired_early(facts: Facts, task: TaskFacts) -> Iterator[Violation]:
    """I3: no lease is called expired before its holder's time is up, even if clocks are wrong."""
    for read in task.reads:
        for attempt in read.task.attempts if read.task is not None else ():
            lease = task.leases.get(attempt.token)
            if attempt.end != task_pb2.Attempt.END_LEASE_EXPIRED or lease is None:
                continue
            lengths = [(claim.began_s, grant.lease_s) for claim, grant in lease.granted]
            lengths += [(beat.began_s, one.lease_s) for beat, one in lease.renewals if one.renewed]
            until_s = max(
                (began + length * (1 - CLOCK_MARGIN) for began, length in lengths), default=0
            )
            if read.known_by_s < until_s:
                start = facts.ledger.started_s
                yield _violation(
                    "I3",
                    task,
                    f"token {attempt.token} was read as expired at {read.known_by_s - start:.3f} s"
                    f" and lasts until {until_s - start:.3f} s",
                )
                return


def tokens_name_one_lease(facts: Facts) -> Iterator[Violation]:
    """I3: no token stands for leases of two tasks."""
    owners: dict[int, TaskFacts] = {}
    for task in facts.tasks.values():
        for lease in task.leases.values():
            if not lease.granted:
                continue
            other = owners.setdefault(lease.token, task)
            if other is not task:
                yield _violation(
                    "I3", task, f"shares token {lease.token} with task {other.task_id}"
                )


def one_outcome(task: TaskFacts) -> Iterator[Violation]:
    """I4: at most one accepted completion for each task, one RECORDED for each token."""
    completed = []
    for lease in task.in_token_order():
        accepted = lease.accepted()
        endings = {call.ending for call in accepted}
        if len(endings) > 1:
            names = " and ".join(sorted(ending.value for ending in endings))
            yield _violation("I4", task, f"token {lease.token} was accepted as {names}")
        recorded = [call for call in accepted if call.status == ReportStatus.STATUS_RECORDED]
        if len(recorded) > 1:
            yield _violation("I4", task, f"token {lease.token} was recorded {len(recorded)} times")
        if Ending.COMPLETE in endings:
            completed.append(lease.token)
    if len(completed) > 1:
        yield _violation("I4", task, f"was completed {len(completed)} times: {completed}")
    for read in task.reads:
        if read.task is not None:
            ends = [a.token for a in read.task.attempts if a.end == task_pb2.Attempt.END_COMPLETED]
            if len(ends) > 1:
                yield _violation("I4", task, f"its history holds completions {ends}")


_END_OF = {
    Ending.COMPLETE: task_pb2.Attempt.END_COMPLETED,
    Ending.FAIL: task_pb2.Attempt.END_FAILED,
    Ending.RELEASE: task_pb2.Attempt.END_RELEASED,
    Ending.PAUSE: task_pb2.Attempt.END_RELEASED,
}


def recorded_as_told(task: TaskFacts) -> Iterator[Violation]:
    """I5: what the answers to workers said is on record."""
    read = task.last_read()
    if read is None or read.task is None:
        return
    attempts = {attempt.token: attempt for attempt in read.task.attempts}
    for lease in task.in_token_order():
        attempt = attempts.get(lease.token)
        for call in lease.accepted():
            if call.known_by_s < read.began_s:
                yield from _as_told(task, call, read, attempt)
        if attempt is not None and attempt.end == task_pb2.Attempt.END_COMPLETED:
            denied = [
                call
                for call in lease.reports
                if call.ending is Ending.COMPLETE and call.status == ReportStatus.STATUS_LEASE_LOST
            ]
            if denied:
                yield _violation(
                    "I5",
                    task,
                    f"is recorded as completed with token {lease.token}, whose holder was told"
                    " that its lease was lost",
                )


def _end_told(call: ReportCall) -> task_pb2.Attempt.End.ValueType:
    """How the attempt ended, by the worker's answer: a repeated report may have met a cancel."""
    if call.state == task_pb2.TASK_STATE_CANCELLED:
        return task_pb2.Attempt.END_CANCELLED
    return _END_OF[call.ending]


def _as_told(
    task: TaskFacts,
    call: ReportCall,
    read: ReadCall,
    attempt: task_pb2.Attempt | None,
) -> Iterator[Violation]:
    assert read.task is not None
    told = f"{call.ending.value} with token {call.token} was acknowledged to {call.actor}, "
    if attempt is None:
        if len(read.task.attempts) < ATTEMPTS_KEPT:
            yield _violation("I5", task, f"{told}and its history has no such attempt")
    elif attempt.end != _end_told(call):
        end = task_pb2.Attempt.End.Name(attempt.end)
        yield _violation("I5", task, f"{told}and its history says {end}")
    if call.ending is Ending.COMPLETE:
        if read.task.state != task_pb2.TASK_STATE_COMPLETED:
            state = task_pb2.TaskState.Name(read.task.state)
            yield _violation("I5", task, f"{told}and it is {state}")
        elif read.task.result != call.result:
            yield _violation("I5", task, f"{told}and its result is another one")


def out_of_nowhere(task: TaskFacts) -> Iterator[Violation]:
    """I5: the record holds nothing that was not reported."""
    read = task.last_read()
    if read is None or read.task is None:
        return
    final = read.task
    for attempt in final.attempts:
        if attempt.end != task_pb2.Attempt.END_COMPLETED:
            continue
        lease = task.leases.get(attempt.token)
        calls = lease.reports if lease is not None else []
        results = [call.result for call in calls if call.ending is Ending.COMPLETE]
        if not results:
            yield _violation(
                "I5", task, f"is completed with token {attempt.token}, which nobody reported"
            )
        elif final.state == task_pb2.TASK_STATE_COMPLETED and final.result not in results:
            yield _violation("I5", task, "its result is none that was ever reported")


def finished(facts: Facts, task: TaskFacts) -> Iterator[Violation]:
    """I8, for every task that is known to exist."""
    exists = bool(task.request_ids) or task.task_id in (facts.ledger.listing or {})
    read = task.last_read()
    if not exists:
        return
    if read is None:
        yield _violation("I8", task, "exists and nobody looked what became of it")
    elif read.task is not None and read.task.state not in TERMINAL:
        state = task_pb2.TaskState.Name(read.task.state)
        yield _violation("I8", task, f"is still {state}")
