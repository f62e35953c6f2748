"""Check whether a history of what clients and workers saw keeps the contract.

The invariants, by their numbers:

I1  no acknowledged submit is lost
I2  one request id, one creation
I3  a task's leases never overlap, in log order or in their holders' belief; their tokens rise
I4  at most one accepted terminal outcome for each task
I5  the outcome acknowledged to a worker is the recorded one
I6  each task's history is linearizable, and the whole adds up
I8  once faults stop, every task finishes

A call without an answer is a "maybe": it may explain what is seen, and is never a violation. If a
cluster was lost for good, two histories are checked: the one until then as it was, and the whole
one, in which everything that may be lost is a maybe.
"""

from __future__ import annotations

from chaos.history import promises, regained
from chaos.history.facts import Facts
from chaos.history.order import contradictions
from chaos.history.orders import contradiction
from chaos.history.record import Ledger
from chaos.history.totals import totals
from chaos.history.violation import Violation


def check(
    ledger: Ledger, *, all_finished: bool = True, all_workers: bool = True
) -> list[Violation]:
    """Return every broken promise; empty when the history keeps the contract.

    ``all_finished``: the run was given the time to finish, so every task has to be terminal.
    ``all_workers``: every worker wrote into this ledger, so every completion has to be in it.
    """
    found: list[Violation] = []
    if ledger.losses:
        found += check(ledger.until_lost(), all_finished=False, all_workers=all_workers)
    facts = Facts(ledger)
    found += promises.requests(facts)
    for task in facts.tasks.values():
        found += promises.not_lost(facts, task)
        found += promises.leases(facts, task)
        found += promises.expired_early(facts, task)
        found += promises.one_outcome(task)
        found += promises.recorded_as_told(task)
        if all_workers:
            found += promises.out_of_nowhere(task)
        if all_finished:
            found += promises.finished(facts, task)
        simple = [
            Violation("I6", f"task {task.task_id}: {message}", task.task_id)
            for message in contradictions(facts, task)
        ]
        found += simple
        # Violations of real time alone have messages of their own; the search finds the rest.
        if all_workers and not simple:
            refuted = contradiction(facts, task)
            found += [refuted] if refuted else []
    found += promises.tokens_name_one_lease(facts)
    if all_workers:
        found += totals(facts)
    found += regained.kept_from_the_start(facts)
    found += regained.tokens_go_on(ledger)
    return list(dict.fromkeys(found))


def report(ledger: Ledger, violations: list[Violation], *, at_most: int = 5) -> str:
    """Put violations into words, the first ones with the calls that led to them."""
    lines = []
    for violation in violations[:at_most]:
        lines.append(f"{violation.invariant}: {violation.message}")
        if violation.task_id is not None:
            lines += [f"    {line}" for line in ledger.history(violation.task_id)]
    if len(violations) > at_most:
        lines.append(f"... and {len(violations) - at_most} more")
    return "\n".join(lines)
