"""Expire the leases of workers that were silent for too long."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import retries, transitions
from tq_cluster.core.kernel.audit import Audited
from tq_cluster.core.kernel.batch import TOKEN_MAX, Moments, Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.model.operations import Done, ExpireLeases, Lease, Steps
from tq_cluster.core.model.types import FencingToken
from tq_cluster.core.rows import rows, tables


def decide_expiries(space: Space, operation: ExpireLeases) -> Steps:
    """End each lease that is still held; its attempt counts as a failed one."""
    items = 0
    for lease in operation.leases:
        items += _expire(space, lease)
        yield
    return Done(more=operation.more, items=items)


def _expire(space: Space, lease: Lease) -> bool:
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, lease.number))
    if found is None:
        return False
    row = state_pb2.TaskRow.FromString(found)
    if row.state != states.RUNNING or row.token != lease.token:
        return False  # it has ended meanwhile
    queue = space.queue(row.queue_id)
    queue.tally.leases_expired += 1
    task = (space, queue, lease.number, row)
    if row.cancel_requested:
        cancelled = partial(transitions.finish, *task, lease.task_id, states.CANCELLED)
        transitions.end_lease(*task, task_pb2.Attempt.END_CANCELLED, cancelled)
    else:
        again = partial(retries.retry_or_fail, *task, lease.task_id)
        transitions.end_lease(*task, task_pb2.Attempt.END_LEASE_EXPIRED, again)
    space.put_task(lease.number, row)
    return True


def _end_token(space: Space, _queue: Queue, _number: int, row: state_pb2.TaskRow) -> None:
    space.wakeups.ended.append(FencingToken(row.token))


def _audit(state: Audited) -> Iterator[str]:
    """Check that tokens rise in each task's history, and that no two leases had the same."""
    kept = DEFAULT_LIMITS.attempts_kept
    seen: dict[int, int] = {}
    for number, row, _ in state.tasks:
        history = rows.read_history(state.view, state.prefix, number, row, kept)
        tokens = [attempt.token for attempt in reversed(history)]
        if row.state in (states.RUNNING, states.COMPLETED):
            tokens.append(row.token)
        elif tokens and tokens[-1] != row.token:
            yield f"task {number} had token {row.token} last, its history ends in {tokens[-1]}"
        if any(later <= earlier for earlier, later in pairwise(tokens)):
            yield f"task {number} has tokens that do not rise: {tokens}"
        for token in tokens:
            if not 0 < token <= min(state.counters.token, TOKEN_MAX):
                yield f"task {number} has token {token}, the counter is {state.counters.token}"
            if token in seen:
                yield f"tasks {seen[token]} and {number} both had token {token}"
            seen[token] = number


FEATURE: Final = Feature(
    name="leases",
    steps=Moments(give_back=(_end_token,)),
    decisions=(decides(ExpireLeases, decide_expiries),),
    audits=(_audit,),
)
