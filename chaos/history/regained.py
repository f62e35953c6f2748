"""Checks of what a cluster that replaces a lost one must keep for the callers of the old one."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.history.calls import (
    Call,
    ClaimCall,
    HeartbeatCall,
    ReportCall,
    ReportStatus,
    SubmitCall,
)
from chaos.history.facts import Facts
from chaos.history.record import Ledger
from chaos.history.violation import Violation

NEVER = float("-inf")
TAKEN_NOW = frozenset({ReportStatus.STATUS_RECORDED, ReportStatus.STATUS_CANCELLED})


def kept_from_the_start(facts: Facts) -> Iterator[Violation]:
    """I1: a log loses only its end, so everything before an entry that is kept is kept."""
    ledger = facts.ledger
    if ledger.listing is None:
        return
    kept = {label.rpartition("/")[0] for label in ledger.listing.values()}
    for loss in ledger.losses:
        open_ = [
            call
            for call in ledger.calls
            if isinstance(call, SubmitCall) and any(call.task_ids) and loss.may_have_taken(call)
        ]
        last_kept_s = max(
            (_sent_s(facts, call) for call in open_ if call.request_id in kept), default=NEVER
        )
        for call in open_:
            deleted = any(facts.may_be_deleted(facts.task(one)) for one in call.task_ids if one)
            if call.request_id not in kept and call.known_by_s < last_kept_s and not deleted:
                yield Violation(
                    "I1",
                    f"request {call.request_id} was acknowledged at"
                    f" {call.known_by_s - ledger.started_s:.3f} s and is lost, and one that was"
                    f" first sent at {last_kept_s - ledger.started_s:.3f} s is kept",
                    next(one for one in call.task_ids if one),
                )


def _sent_s(facts: Facts, call: SubmitCall) -> float:
    return min(sending.began_s for sending in facts.submits[call.request_id])


def tokens_go_on(ledger: Ledger) -> Iterator[Violation]:
    """I3: new tokens are above all earlier ones, lost or not, and no old lease is live."""
    for loss in ledger.losses:
        answered = [call for call in ledger.calls if call.ended_s is not None]
        old = [call for call in answered if call.known_by_s <= loss.back_s]
        new = [call for call in answered if call.known_by_s > loss.back_s]
        highest = max((token for call in old for _, token in _granted(call)), default=0)
        for call in new:
            for task_id, token in _granted(call):
                if token <= highest:
                    how = f"granted by the next, which had to begin above {highest}"
                    yield _reused(task_id, token, how)
            for task_id, token in _alive(call):
                if token <= highest:
                    yield _reused(task_id, token, "still live in the next")


def _granted(call: Call) -> Iterator[tuple[str, int]]:
    """The tasks that a call was granted, with their tokens."""
    if isinstance(call, ClaimCall):
        yield from ((grant.task_id, grant.token) for grant in call.grants)


def _alive(call: Call) -> Iterator[tuple[str, int]]:
    """The leases that an answer says are live."""
    if isinstance(call, HeartbeatCall):
        yield from ((one.task_id, one.token) for one in call.renewals if one.renewed)
    elif isinstance(call, ReportCall) and call.status in TAKEN_NOW:
        yield call.task_id, call.token


def _reused(task_id: str, token: int, how: str) -> Violation:
    message = f"task {task_id}: token {token} of a cluster that was lost is {how}"
    return Violation("I3", message, task_id)
