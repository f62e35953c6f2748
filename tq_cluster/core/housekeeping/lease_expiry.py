"""Expire the leases of workers that were silent for too long."""

from __future__ import annotations

from functools import partial

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import retries, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Done, ExpireLeases, Lease, Steps
from tq_cluster.core.rows import tables


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
