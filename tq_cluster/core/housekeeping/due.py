"""Waiting tasks whose time has come: they become ready, or expire."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from tq.v1 import task_pb2
from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.audit import Audited, Rows
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, Instants, Slice, TimedWork, decides
from tq_cluster.core.kernel.indexes import NOTHING
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Done, MakeDue, Steps
from tq_cluster.core.reads import queries
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View


def decide_due(space: Space, operation: MakeDue) -> Steps:
    """Fail the tasks past their expire_at, then make the due tasks PENDING."""
    expired = _reached(space, operation, tables.EXPIRING, operation.tasks_max)
    for number in expired:
        row = rows.read_task(space.workspace, space.prefix, number)
        spec = rows.read_spec(space.workspace, space.prefix, number)
        queue = space.queue(row.queue_id)
        transitions.fail(space, queue, number, row, spec.task_id, task_pb2.FAILURE_REASON_EXPIRED)
        space.put_task(number, row)
        yield
    # Read after the expiries: a task that has just expired is no longer due.
    due = _reached(space, operation, tables.DUE, operation.tasks_max - len(expired))
    for number in due:
        row = rows.read_task(space.workspace, space.prefix, number)
        transitions.make_pending(space, space.queue(row.queue_id), number, row)
        space.put_task(number, row)
        yield
    items = len(expired) + len(due)
    return Done(more=operation.more or items >= operation.tasks_max, items=items)


def _reached(space: Space, operation: MakeDue, table: int, limit: int) -> list[int]:
    """Return the numbers of up to ``limit`` tasks whose instant in ``table`` is reached."""
    start = tables.at_key(space.prefix, 0, 0)
    stop = tables.at_key(space.prefix, space.now_ms + 1, 0)
    passed_over = operation.passed_over
    found = space.workspace.scan(table, start, stop, limit=limit + len(passed_over))
    numbers = (tables.split_number(key) for key, _ in found)
    return list(islice((number for number in numbers if number not in passed_over), limit))


def _first(scope: Scope[View], at: Instants, passed_over: Collection[int]) -> int | None:
    return queries.first_due(scope, at.now_ms, passed_over)


def _next_in_ms(scope: Scope[View], at: Instants) -> int | None:
    next_ms = queries.next_due_ms(scope)
    return None if next_ms is None else next_ms - at.now_ms


def _operation(work: Slice) -> MakeDue:
    return MakeDue(
        tasks_max=work.items_max,
        passed_over=work.passed_over,
        more=work.more,
        caller=work.caller,
    )


def _audit(state: Audited) -> Iterator[str]:
    due: Rows = {}
    expiring: Rows = {}
    for number, row, _ in state.tasks:
        if row.state in (states.SCHEDULED, states.RETRYING):
            due[tables.at_key(state.prefix, row.due_at_ms, number)] = NOTHING
        if row.state in states.WAITING and row.expire_at_ms:
            expiring[tables.at_key(state.prefix, row.expire_at_ms, number)] = NOTHING
    yield from state.compare(tables.DUE, due)
    yield from state.compare(tables.EXPIRING, expiring)


FEATURE: Final = Feature(
    name="due tasks",
    decisions=(decides(MakeDue, decide_due),),
    timed_work=(TimedWork(kind="due", first=_first, next_in_ms=_next_in_ms, operation=_operation),),
    audits=(_audit,),
)
