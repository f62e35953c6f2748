"""Leases whose workers were silent for too long."""

from __future__ import annotations

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core import retries, states, tables, tasks
from tq_cluster.core.batch import Space
from tq_cluster.core.events import What, note
from tq_cluster.core.operations import Done, ExpireLeases, Lease, Steps


def decide_expiries(space: Space, operation: ExpireLeases) -> Steps:
    """End each lease that still lives; an attempt that ends so counts like a failed one."""
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
    if row.cancel_requested:
        attempt = tasks.end_attempt(space, row, task_pb2.Attempt.END_CANCELLED)
        tasks.finish(space, queue, lease.number, row, lease.task_id, states.CANCELLED)
    else:
        note(space, What.LEASE_EXPIRED, queue, lease.number, row)
        attempt = tasks.end_attempt(space, row, task_pb2.Attempt.END_LEASE_EXPIRED)
        retries.retry_or_fail(space, queue, lease.number, row, lease.task_id)
    tasks.put_attempt(space, lease.number, row, attempt)
    space.put_task(lease.number, row)
    return True
