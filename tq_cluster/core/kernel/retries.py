"""Retry or fail a task after an unsuccessful attempt."""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.batch import Draw, Space
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model.limits import HOUR_MS, SECOND_MS
from tq_cluster.core.model.proto_time import to_ms
from tq_cluster.core.rows import rows

INITIAL_BACKOFF_MS: Final = 5 * SECOND_MS
MAX_BACKOFF_MS: Final = HOUR_MS
MULTIPLIER: Final = 2.0


def retry_or_fail(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    task_id: str,
    retry_after_ms: int | None = None,
) -> None:
    """Let a task wait for its next attempt or, if none is left, make it a dead letter."""
    if row.attempts_made >= row.max_attempts:
        reason = task_pb2.FAILURE_REASON_ATTEMPTS_EXHAUSTED
        transitions.fail(space, queue, number, row, task_id, reason)
        return
    if retry_after_ms is None:
        policy = rows.read_spec(space.workspace, space.prefix, number).retry_policy
        retry_after_ms = backoff_ms(policy, row.attempts_made, space.batch.draw)
    transitions.make_retrying(space, queue, number, row, space.now_ms + retry_after_ms)


def backoff_ms(policy: task_pb2.RetryPolicy, attempt: int, draw: Draw) -> int:
    """Return the wait, in ms, after attempt number ``attempt`` has failed."""
    span_ms = _span_ms(policy, attempt)
    return span_ms if policy.no_jitter else int(span_ms * draw.random())


def _span_ms(policy: task_pb2.RetryPolicy, attempt: int) -> int:
    first_ms, most_ms = INITIAL_BACKOFF_MS, MAX_BACKOFF_MS
    if policy.HasField("initial_backoff"):
        first_ms = to_ms(policy.initial_backoff)
    if policy.HasField("max_backoff"):
        most_ms = to_ms(policy.max_backoff)
    try:
        grown_ms = first_ms * (policy.multiplier or MULTIPLIER) ** (attempt - 1)
    except OverflowError:
        return most_ms if first_ms else 0
    return int(min(most_ms, grown_ms))
