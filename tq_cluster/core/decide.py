"""The entry point for decisions: a batch of operations in, changes and outcomes out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final

from tq_cluster.core.features import REGISTRY
from tq_cluster.core.kernel import continuations
from tq_cluster.core.kernel.batch import Batch, Draw
from tq_cluster.core.kernel.budget import NO_BUDGET, Budget
from tq_cluster.core.kernel.feature import Registry
from tq_cluster.core.model.limits import DEFAULT_LIMITS, Limits
from tq_cluster.core.model.operations import Claim, Decision, Operation, Outcome, Ready
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
    registry: Registry = REGISTRY,
) -> Decision:
    """Decide a batch on the leader: its changes, and the outcome for each caller.

    An operation that cannot be carried out gets a `Refused`, never an exception, and changes
    nothing. ``now_ms`` is log time, never below the last decided one; ``stepped_ms`` is the total
    by which log time was stepped. ``workspace`` must already hold every entry of the leader's log;
    it receives the changes, and none at all if the operations change nothing. ``draw`` is the
    source of jitter. ``tell_events`` asks for task events, which cost a row read each. ``registry``
    holds the features that decide.

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
        registry=registry,
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
    meet: Callable[[Sequence[Ready]], Sequence[Claim]] = lambda _: (),
    registry: Registry = REGISTRY,
) -> Generator[None, None, Decision]:
    """Decide as `decide` does, in steps of a few rows; in between, others may read but not write.

    ``meet`` receives what the batch made ready and left ready, and returns a few of the claims that
    wait for it. They are decided last, as if they stood behind the operations: so a task that a
    worker waits for is submitted and leased in one entry. It is called again as long as its claims
    are granted tasks and ``budget`` is not spent.

    Once ``budget`` is spent, the remaining operations are put off; at least one is decided, and
    none is left half decided. The first ``first`` operations were put off before, the longest
    waiting in front; `_in_order` says how they share the entry with the others.
    """
    batch = Batch(
        workspace,
        now_ms,
        draw,
        limits,
        stepped_ms,
        moments=registry.moments,
        kept_tables=registry.kept_tables,
        continuations=registry.continuations,
        tell_events=tell_events,
    )
    outcomes: dict[int, Outcome] = {}
    places = _in_order(operations, first)
    given = len(places)
    granted = batch.wakeups.granted
    try:
        while True:
            before = len(granted)
            for place in places[len(outcomes) :]:
                if outcomes and budget.spent_by(workspace):
                    break
                operation = operations[place]
                space = batch.space(operation.caller.namespace)
                decided = registry.decisions[type(operation)](space, operation)
                outcomes[place] = decided if isinstance(decided, Outcome) else (yield from decided)
                if batch.begun:
                    yield from continuations.go_on_inline(batch)
                yield
            in_vain = len(places) > given and len(granted) == before
            if in_vain or not batch.changed or budget.spent_by(workspace):
                break
            claims = meet(batch.ready())
            if not claims:
                break
            places += range(len(operations), len(operations) + len(claims))
            operations = [*operations, *claims]
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
