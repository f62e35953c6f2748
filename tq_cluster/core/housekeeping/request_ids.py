"""Drop request ids past their window."""

from __future__ import annotations

from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.request_ids import BUCKET_MS, kept_ms
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import Done, ForgetRequests, Steps
from tq_cluster.core.rows import tables


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
