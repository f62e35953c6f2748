"""Which waiting tasks a purge covers, from its first entry on.

A purge of a whole queue holds at once, however many tasks wait: it sets a mark in the queue's row,
the number of its newest task. A waiting task up to that number is covered: if it would fail or
become ready, it is cancelled instead, and a claim seeks past it. A continuation cancels the others
(`calls.purge_queue`). The row counts how many are left; the mark goes with the last one.

A task that waits again after the purge began, because its attempt ended or it was redriven, is not
covered: its row says which purge spares it. Claims seek by the instant of the purge: what is
covered was due by then, and what is not covered is due then, with a higher number, or later. Of
purges and tasks of one millisecond that would not hold, so each purge has an instant of its own.
"""

from __future__ import annotations

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states


def covers(queue: Queue, number: int, row: state_pb2.TaskRow) -> bool:
    """Return whether a task waits only to be cancelled by the purge of its queue."""
    return (
        0 < number <= queue.purged_to
        and row.state in states.WAITING
        and row.spared_by != queue.purges
    )


def note_move(queue: Queue, number: int, row: state_pb2.TaskRow, state: states.State) -> None:
    """Count a task that is leaving the covered ones; spare one that comes back to the waiting.

    To be called before the task leaves the state in its row for ``state``, while a purge is under
    way.
    """
    waits_then = state in states.WAITING
    if covers(queue, number, row):
        if not waits_then:
            queue.purge_left -= 1
            if not queue.purge_left:
                end(queue)
    elif waits_then and row.state not in states.WAITING and number <= queue.purged_to:
        row.spared_by = queue.purges
        row.due_at_ms = max(row.due_at_ms, queue.purged_at_ms + 1)


def note_arrival(queue: Queue, row: state_pb2.TaskRow) -> None:
    """Let a new task stand behind those that the purge covers."""
    row.due_at_ms = max(row.due_at_ms, queue.purged_at_ms)


def begin(queue: Queue, newest: int, now_ms: int) -> int:
    """Cover all tasks that wait now; return how many of them no purge covered before.

    Also if it covers no more than the last one, whose continuation may be damaged: it begins again.
    """
    waiting = sum(queue.counts[state] for state in states.WAITING)
    newly = waiting - queue.purge_left
    if waiting:
        queue.purged_to, queue.purge_left = newest, waiting
        queue.purged_at_ms = max(now_ms, queue.purged_at_ms + 1)
        queue.purges += 1
        queue.changed = True
    return newly


def end(queue: Queue) -> None:
    """Cover no task any more."""
    queue.purged_to = queue.purge_left = 0


def as_cancelled(row: state_pb2.TaskRow) -> states.State:
    """Give a covered task, before it ends, the outcome of a purged one."""
    row.cancel_reason = task_pb2.CANCEL_REASON_REQUESTED
    row.failure_reason = task_pb2.FAILURE_REASON_UNSPECIFIED
    row.ended_by = 0
    return states.CANCELLED
