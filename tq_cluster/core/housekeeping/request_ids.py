"""Drop request ids past their window."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from tq_cluster.core.kernel.audit import EVERYTHING, Audited
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, Instants, Slice, TimedWork, decides
from tq_cluster.core.kernel.request_ids import BUCKET_MS, kept_ms
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import Done, ForgetRequests, Steps
from tq_cluster.core.reads import queries
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

REQUESTS_A_TASK: Final = 4
"""A request id is one row, a task several."""
PAUSE_S: Final = 1.0


def decide_forget(space: Space, operation: ForgetRequests) -> Steps:
    """Drop up to ``rows_max`` rows past the window."""
    start, stop = _expired_range(space.prefix, space.passed_ms, space.limits)
    found = list(space.workspace.scan(tables.REQUESTS, start, stop, limit=operation.rows_max))
    for key, value in found:
        space.workspace.delete(tables.REQUESTS, key)
        space.counters.requests -= 1
        space.counters.request_bytes -= len(key) + len(value)
        space.batch.changed = True
        yield
    more = operation.more or len(found) >= operation.rows_max
    return Done(more=more, items=len(found))


def _expired_range(prefix: bytes, passed_ms: int, limits: Limits) -> tuple[bytes, bytes]:
    """Return the key range of the buckets whose rows are all past the window."""
    bucket = max(0, passed_ms - kept_ms(limits)) // BUCKET_MS
    return tables.bucket_key(prefix, 0), tables.bucket_key(prefix, bucket)


def _first(scope: Scope[View], at: Instants, passed_over: Collection[int]) -> int | None:
    # They have no numbers: if one cannot be dropped, all of its namespace wait.
    if scope.namespace in passed_over:
        return None
    in_ms = _next_in_ms(scope, at)
    return scope.namespace if in_ms is not None and in_ms <= 0 else None


def _next_in_ms(scope: Scope[View], at: Instants) -> int | None:
    next_ms = queries.next_forgotten_ms(scope)
    return None if next_ms is None else next_ms - at.passed_ms


def _operation(work: Slice) -> ForgetRequests:
    rows_max = work.items_max * REQUESTS_A_TASK
    return ForgetRequests(rows_max=rows_max, more=work.more, caller=work.caller)


def _audit(state: Audited) -> Iterator[str]:
    # Of all namespaces: the counters are the cluster's.
    start, stop = tables.GROUP_PREFIX, tables.end_of(tables.GROUP_PREFIX[:1])
    found = dict(state.view.scan(tables.REQUESTS, start, stop, limit=EVERYTHING))
    held_bytes = sum(len(key) + len(value) for key, value in found.items())
    counted = (state.counters.requests, state.counters.request_bytes)
    if counted != (len(found), held_bytes):
        yield f"requests counted {counted}, held {(len(found), held_bytes)}"


FEATURE: Final = Feature(
    name="request ids",
    decisions=(decides(ForgetRequests, decide_forget),),
    timed_work=(
        TimedWork(
            kind="requests",
            first=_first,
            next_in_ms=_next_in_ms,
            operation=_operation,
            pause_s=PAUSE_S,
        ),
    ),
    audits=(_audit,),
)
