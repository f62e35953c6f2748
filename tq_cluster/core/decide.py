"""The entry point for decisions: a batch of operations in, changes and outcomes out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, assert_never

from tq_cluster.core.calls.cancel import decide_cancel
from tq_cluster.core.calls.claim import decide_claim
from tq_cluster.core.calls.configure_queue import decide_configure
from tq_cluster.core.calls.delete_dead_letters import decide_deletion
from tq_cluster.core.calls.delete_queue import decide_delete_queue
from tq_cluster.core.calls.purge_queue import decide_purge
from tq_cluster.core.calls.redrive import decide_redrive
from tq_cluster.core.calls.report import decide_report
from tq_cluster.core.calls.submit import decide_submit
from tq_cluster.core.cluster.formation import decide_formation, decide_version
from tq_cluster.core.cluster.replacement import decide_replacement
from tq_cluster.core.cluster.restoring import decide_end_leases, decide_leave, decide_pause
from tq_cluster.core.cluster.scrubbing import decide_hash, decide_scrub_end
from tq_cluster.core.housekeeping.backfill import decide_fill
from tq_cluster.core.housekeeping.due import decide_due
from tq_cluster.core.housekeeping.lease_expiry import decide_expiries
from tq_cluster.core.housekeeping.request_ids import decide_forget
from tq_cluster.core.housekeeping.retention import decide_retired
from tq_cluster.core.kernel.batch import Batch, Draw
from tq_cluster.core.kernel.budget import NO_BUDGET, Budget
from tq_cluster.core.model.limits import DEFAULT_LIMITS, Limits
from tq_cluster.core.model.operations import (
    Cancel,
    Claim,
    ConfigureQueue,
    Decision,
    DeleteDeadLetters,
    DeleteQueue,
    EndLeases,
    EndScrub,
    ExpireLeases,
    FillTables,
    ForgetRequests,
    FormCluster,
    HashState,
    LeaveCluster,
    MakeDue,
    Operation,
    Outcome,
    PauseQueues,
    PurgeQueue,
    RaiseVersion,
    Redrive,
    RemoveRetired,
    ReplaceNode,
    Report,
    Steps,
    Submit,
)
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.core.rows.view import Workspace

__all__ = ["Draw", "decide", "deciding"]

TURN_OPERATIONS: Final = 8
"""How many other operations are decided after each claim that was put off."""


def decide(
    operations: Sequence[Operation],
    now_ms: TimestampMs,
    workspace: Workspace,
    draw: Draw,
    limits: Limits = DEFAULT_LIMITS,
    *,
    stepped_ms: int = 0,
    tell_events: bool = False,
) -> Decision:
    """Decide a batch on the leader: its changes, and the outcome for each caller.

    An operation that cannot be carried out gets a `Refused`, never an exception, and changes
    nothing. ``now_ms`` is log time, never below the last decided one; ``stepped_ms`` is the total
    by which log time was stepped. ``workspace`` must already hold every entry of the leader's log;
    it receives the changes, and none at all if the operations change nothing. ``draw`` is the
    source of jitter. ``tell_events`` asks for task events, which cost a row read each.

    Operations are decided in the order of ``Operation.order``, those of one kind as given.
    """
    steps = deciding(
        operations,
        now_ms,
        workspace,
        draw,
        limits,
        stepped_ms=stepped_ms,
        tell_events=tell_events,
    )
    try:
        while True:
            next(steps)
    except StopIteration as end:
        decision: Decision = end.value
        return decision


def deciding(
    operations: Sequence[Operation],
    now_ms: TimestampMs,
    workspace: Workspace,
    draw: Draw,
    limits: Limits = DEFAULT_LIMITS,
    *,
    stepped_ms: int = 0,
    tell_events: bool = False,
    budget: Budget = NO_BUDGET,
    first: int = 0,
) -> Generator[None, None, Decision]:
    """Decide as `decide` does, in steps of a few rows; in between, others may read but not write.

    Once ``budget`` is spent, the remaining operations are put off; at least one is decided, and
    none is left half decided. The first ``first`` operations were put off before, the longest
    waiting in front; `_in_order` says how they share the entry with the others.
    """
    batch = Batch(workspace, now_ms, draw, limits, stepped_ms, tell_events=tell_events)
    outcomes: dict[int, Outcome] = {}
    places = _in_order(operations, first)
    try:
        for reached, place in enumerate(places):
            if reached and budget.spent_by(workspace):
                break
            decided = _decide_one(batch, operations[place])
            outcomes[place] = decided if isinstance(decided, Outcome) else (yield from decided)
            yield
        yield from batch.finish()
    finally:
        batch.let_go()
    told = [outcomes[place] for place in sorted(outcomes)]
    put_off = sorted(places[len(outcomes) :])
    return Decision(told, batch.wakeups, batch.hash_range, batch.members, put_off)


def _in_order(operations: Sequence[Operation], first: int) -> list[int]:
    """Return the places of operations in the order of their decision.

    What was put off keeps its order and goes before what came since, which is sorted by kind: so
    nothing is put off for ever. But after each claim that was put off come ``TURN_OPERATIONS`` that
    are no claims. A few hundred claims that look for rare types are many entries of work, and a
    submit or a report would wait for all of them.
    """
    later = sorted(range(first, len(operations)), key=lambda place: operations[place].order)
    put_off = range(first)
    claims = [place for place in put_off if isinstance(operations[place], Claim)]
    if not claims:
        return [*put_off, *later]
    # Before the first claim stand releases of what claims were granted, if there are any: they go
    # before repetitions of those claims.
    before = put_off[: claims[0]]
    others = [
        place
        for place in (*put_off[claims[0] :], *later)
        if not isinstance(operations[place], Claim)
    ]
    in_turns = [
        place
        for turn, claim in enumerate(claims)
        for place in (claim, *others[turn * TURN_OPERATIONS : (turn + 1) * TURN_OPERATIONS])
    ]
    in_turns += others[len(claims) * TURN_OPERATIONS :]
    new_claims = [place for place in later if isinstance(operations[place], Claim)]
    return [*before, *in_turns, *new_claims]


def _decide_one(batch: Batch, operation: Operation) -> Steps | Outcome:
    space = batch.space(operation.caller.namespace)
    match operation:
        case Submit():
            return decide_submit(space, operation)
        case Claim():
            return decide_claim(space, operation)
        case Report():
            return decide_report(space, operation)
        case Cancel():
            return decide_cancel(space, operation)
        case ConfigureQueue():
            return decide_configure(space, operation)
        case DeleteQueue():
            return decide_delete_queue(space, operation)
        case Redrive():
            return decide_redrive(space, operation)
        case DeleteDeadLetters():
            return decide_deletion(space, operation)
        case PurgeQueue():
            return decide_purge(space, operation)
        case ExpireLeases():
            return decide_expiries(space, operation)
        case MakeDue():
            return decide_due(space, operation)
        case RemoveRetired():
            return decide_retired(space, operation)
        case ForgetRequests():
            return decide_forget(space, operation)
        case FormCluster():
            return decide_formation(space, operation)
        case RaiseVersion():
            return decide_version(space, operation)
        case FillTables():
            return decide_fill(space, operation)
        case HashState():
            return decide_hash(space, operation)
        case EndScrub():
            return decide_scrub_end(space, operation)
        case ReplaceNode():
            return decide_replacement(space, operation)
        case EndLeases():
            return decide_end_leases(space, operation)
        case PauseQueues():
            return decide_pause(space)
        case LeaveCluster():
            return decide_leave(space, operation)
        case _:
            assert_never(operation)
