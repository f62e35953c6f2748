"""Remove tasks past their retention."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.audit import Audited, Rows
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies import holds
from tq_cluster.core.kernel.feature import Feature, Instants, Slice, TimedWork, decides
from tq_cluster.core.kernel.removal import ROWS_A_TASK_MIN, remove
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import HOUR_MS
from tq_cluster.core.model.operations import Done, RemoveRetired, Steps
from tq_cluster.core.reads import queries
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

TASK_ROWS: Final = 6
"""How many rows the removal of one task counts as."""
PAUSE_S: Final = 1.0


def decide_retired(space: Space, operation: RemoveRetired) -> Steps:
    """Remove whole tasks past their retention, about ``rows_max`` rows in all.

    One that other tasks still need is put off.
    """
    left = operation.rows_max
    start = tables.at_key(space.prefix, 0, 0)
    stop = tables.at_key(space.prefix, space.now_ms + 1, 0)
    # A task has at least ROWS_A_TASK_MIN rows: no more tasks than these can be reached.
    limit = len(operation.passed_over) + left // ROWS_A_TASK_MIN + 1
    removed = 0
    for key, task_id in list(space.workspace.scan(tables.RETIRED, start, stop, limit=limit)):
        number = tables.split_number(key)
        if number in operation.passed_over:
            continue
        if left <= 0:
            return Done(more=True, items=removed)
        row = rows.read_task(space.workspace, space.prefix, number)
        if row.has_dependents:
            left -= holds.DEPENDENTS_LOOKED_AT
            hold = holds.keeps_from_removal(space, number, row)
            if hold is None or hold.ended:
                holds.forget_dependents(space, number)
            if hold is not None:
                # The removal of the last one that needs it has it looked at before.
                transitions.put_off_removal(
                    space, number, row, task_id, 0 if hold.ended else HOUR_MS
                )
                yield
                continue
        left -= yield from remove(space, number, row, task_id)
        removed += 1
        yield
    return Done(more=operation.more or left <= 0, items=removed)


def _first(scope: Scope[View], at: Instants, passed_over: Collection[int]) -> int | None:
    return queries.first_retired(scope, at.now_ms, passed_over)


def _next_in_ms(scope: Scope[View], at: Instants) -> int | None:
    next_ms = queries.next_retired_ms(scope)
    return None if next_ms is None else next_ms - at.now_ms


def _operation(work: Slice) -> RemoveRetired:
    return RemoveRetired(
        rows_max=1 if work.items_max == 1 else work.items_max * TASK_ROWS,
        passed_over=work.passed_over,
        more=work.more,
        caller=work.caller,
    )


def _audit(state: Audited) -> Iterator[str]:
    expected: Rows = {}
    for number, row, spec in state.tasks:
        if row.state in states.TERMINAL:
            key = tables.at_key(state.prefix, row.retire_at_ms, number)
            expected[key] = spec.task_id.encode()
    yield from state.compare(tables.RETIRED, expected)


FEATURE: Final = Feature(
    name="retention",
    decisions=(decides(RemoveRetired, decide_retired),),
    timed_work=(
        TimedWork(
            kind="retention",
            first=_first,
            next_in_ms=_next_in_ms,
            operation=_operation,
            pause_s=PAUSE_S,
        ),
    ),
    audits=(_audit,),
)
