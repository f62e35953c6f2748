"""End a task of which too few dependencies are left."""

from __future__ import annotations

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.dependencies.edges import is_skipped, skips
from tq_cluster.core.kernel.dependencies.looking import Broken, Standing
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.rows import rows


def give_up(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    standing: Standing,
    broken: Broken,
) -> None:
    """End a BLOCKED task as the dependency asks whose end has left too few."""
    parent = rows.read_task(space.workspace, space.prefix, broken.parent_number)
    row.ended_by = broken.parent_number
    task_id = rows.read_spec(space.workspace, space.prefix, number).task_id
    if skips(standing.all_of_it.depends_on[broken.place]):
        row.cancel_reason = task_pb2.CANCEL_REASON_SKIPPED
        transitions.finish(space, queue, number, row, task_id, states.CANCELLED)
    elif parent.state == states.CANCELLED and not is_skipped(parent):
        row.cancel_reason = task_pb2.CANCEL_REASON_DEPENDENCY
        transitions.finish(space, queue, number, row, task_id, states.CANCELLED)
    else:
        reason = task_pb2.FAILURE_REASON_DEPENDENCY
        transitions.fail(space, queue, number, row, task_id, reason)
