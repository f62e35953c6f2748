"""Start a cluster from the state of another: from a backup, or after a loss.

Each node of the new cluster does this for itself, without a log between them: these decisions
depend on the state alone.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Done, EndLeases, LeaveCluster, PauseQueues
from tq_cluster.core.rows import rows, tables

_EVERY_QUEUE: Final = 1 << 32


def decide_end_leases(space: Space, operation: EndLeases) -> Done:
    """End running leases: their workers get LEASE_LOST, even if the work is done."""
    start = tables.by_state_key(space.prefix, states.RUNNING, 0, 0)
    stop = tables.by_state_key(space.prefix, states.RUNNING + 1, 0, 0)
    found = list(space.workspace.scan(tables.BY_STATE, start, stop, limit=operation.tasks_max))
    for key, value in found:
        number = tables.split_number(key)
        task_id = state_pb2.LeaseRow.FromString(value).task_id
        row = rows.read_task(space.workspace, space.prefix, number)
        queue = space.queue(row.queue_id)
        if operation.quarantine:
            _quarantine(space, queue, number, row, task_id)
        else:
            _release(space, queue, number, row, task_id)
        space.put_task(number, row)
    return Done(more=len(found) == operation.tasks_max)


def decide_pause(space: Space, _operation: PauseQueues) -> Done:
    """Pause every queue."""
    start, stop = space.prefix, tables.end_of(space.prefix)
    found = space.workspace.scan(tables.QUEUES, start, stop, limit=_EVERY_QUEUE)
    for queue_id in [int.from_bytes(key[-4:], "big") for key, _ in found]:
        queue = space.queue(queue_id)
        queue.paused = queue.changed = space.batch.changed = True
    return Done(more=False)


def decide_leave(space: Space, operation: LeaveCluster) -> Done:
    """Remove the cluster id and the members: a cluster formed over this state gets its own id."""
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    cluster = state_pb2.ClusterRow.FromString(found or b"")
    cluster.cluster_id = ""
    del cluster.members[:]
    restored = state_pb2.RestoredRow(made_at_ms=operation.made_at_ms)
    for key, row in ((tables.CLUSTER_KEY, cluster), (tables.RESTORED_KEY, restored)):
        space.workspace.put(tables.META, key, row.SerializeToString(deterministic=True))
    space.batch.changed = True
    return Done(more=False)


def _release(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow, task_id: str) -> None:
    """Return the task to its old place in the queue; its attempt ends as released."""
    reason = "the cluster was restored from a backup"
    task = (space, queue, number, row)
    if row.cancel_requested:
        cancelled = partial(transitions.finish, *task, task_id, states.CANCELLED)
        transitions.end_lease(*task, task_pb2.Attempt.END_CANCELLED, cancelled, error=reason)
    else:
        back = partial(transitions.make_pending, *task)
        transitions.end_lease(*task, task_pb2.Attempt.END_RELEASED, back, error=reason)


def _quarantine(
    space: Space, queue: Queue, number: int, row: state_pb2.TaskRow, task_id: str
) -> None:
    """Make the task a dead letter for an operator, kept for the default retention at least."""
    if row.retention_ms < transitions.RETENTION_MS[states.FAILED]:
        row.ClearField("retention_ms")
    task = (space, queue, number, row)
    dead = partial(transitions.fail, *task, task_id, task_pb2.FAILURE_REASON_UNCERTAIN)
    transitions.end_lease(*task, task_pb2.Attempt.END_UNCERTAIN, dead)


FEATURE: Final = Feature(
    name="restoring",
    decisions=(
        decides(EndLeases, decide_end_leases),
        decides(PauseQueues, decide_pause),
        decides(LeaveCluster, decide_leave),
    ),
)
