"""How a task moves from state to state, with every index and count that goes along.

Each function takes the task's row, changes it and everything around it, and leaves the row for the
caller to store: a decision often changes it twice.
"""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core import ordering, states, tables
from tq_cluster.core.batch import Queue, Space
from tq_cluster.core.events import What, note
from tq_cluster.core.limits import DAY_MS
from tq_cluster.core.operations import Lease
from tq_cluster.core.types import DurationMs, FencingToken, TaskId, TaskNumber

RETENTION_MS: Final[dict[states.State, int]] = {
    states.COMPLETED: DAY_MS,
    states.CANCELLED: DAY_MS,
    states.FAILED: 14 * DAY_MS,
}
"""How long a task is kept after its end unless its spec says otherwise."""

_NOTHING: Final = b""


def arrive(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Add a new task, SCHEDULED or PENDING by when it is due."""
    if row.due_at_ms > space.now_ms:
        row.state = states.SCHEDULED
    else:
        row.state = states.PENDING
    _index_waiting(space, queue, number, row)
    queue.entries[states.NONE] += 1
    queue.moved(number, row, states.NONE)
    _list(space, queue, number, row.state, _NOTHING)
    note(space, What.SUBMITTED, queue, number, row)


def make_pending(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Put a task among the ready, at the place that its ``due_at_ms`` gives it."""
    if row.state in states.WAITING:
        _unindex_waiting(space, queue, number, row)
    _move(space, queue, number, row, states.PENDING)


def make_retrying(
    space: Space, queue: Queue, number: int, row: state_pb2.TaskRow, due_at_ms: int
) -> None:
    """Let a task wait for its next attempt."""
    row.due_at_ms = due_at_ms
    _move(space, queue, number, row, states.RETRYING)
    note(space, What.RETRIED, queue, number, row)


def lease(
    space: Space,
    queue: Queue,
    number: TaskNumber,
    row: state_pb2.TaskRow,
    task_id: TaskId,
    worker_id: str,
    lease_ms: DurationMs,
) -> None:
    """Begin an attempt: grant a lease under the next token."""
    _unindex_waiting(space, queue, number, row)
    token = space.next_token()
    queue.tally.waited_ms.append(space.now_ms - row.due_at_ms)
    listing = state_pb2.LeaseRow(token=token, task_id=task_id, lease_ms=lease_ms)
    _move(space, queue, number, row, states.RUNNING, listing.SerializeToString())
    row.token = token
    row.worker_id = worker_id
    row.started_at_ms = space.now_ms
    row.lease_ms = lease_ms
    row.attempts_made += 1
    space.wakeups.granted.append(Lease(token, number, task_id, lease_ms))
    note(space, What.ASSIGNED, queue, number, row)


def end_attempt(
    space: Space,
    row: state_pb2.TaskRow,
    end: task_pb2.Attempt.End.ValueType,
    error: str = "",
) -> state_pb2.AttemptRow:
    """End the live lease; the caller stores the attempt once it knows what it led to."""
    space.wakeups.ended.append(FencingToken(row.token))
    return state_pb2.AttemptRow(
        number=row.attempts_made,
        token=row.token,
        worker_id=row.worker_id,
        started_at_ms=row.started_at_ms,
        ended_at_ms=space.now_ms,
        end=end,
        error=error,
    )


def put_attempt(
    space: Space, number: int, row: state_pb2.TaskRow, attempt: state_pb2.AttemptRow
) -> None:
    """Add an ended attempt to the task's history, dropping the oldest beyond those kept."""
    place = row.history_length
    row.history_length = place + 1
    space.workspace.put(
        tables.ATTEMPTS,
        tables.attempt_key(space.prefix, number, place),
        attempt.SerializeToString(deterministic=True),
    )
    dropped = place - space.limits.attempts_kept
    if dropped >= 0:
        space.workspace.delete(tables.ATTEMPTS, tables.attempt_key(space.prefix, number, dropped))


def finish(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    task_id: str,
    state: states.State,
) -> None:
    """Make a task terminal, to be kept for its retention."""
    now_ms = space.now_ms
    workspace = space.workspace
    if row.state in states.WAITING:
        _unindex_waiting(space, queue, number, row)
    _move(space, queue, number, row, state)
    queue.tally.ended(state, now_ms - row.submitted_at_ms, row.attempts_made)
    kept_ms = row.retention_ms if row.HasField("retention_ms") else RETENTION_MS[state]
    row.finished_at_ms = now_ms
    row.retire_at_ms = now_ms + kept_ms
    row.cancel_requested = False
    retired_key = tables.at_key(space.prefix, row.retire_at_ms, number)
    workspace.put(tables.RETIRED, retired_key, task_id.encode())
    space.wakeups.finished.add(TaskId(task_id))
    if state != states.FAILED:
        end = What.COMPLETED if state == states.COMPLETED else What.CANCELLED
        note(space, end, queue, number, row)


def fail(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    task_id: str,
    reason: task_pb2.FailureReason.ValueType,
) -> None:
    """Make a task a dead letter."""
    finish(space, queue, number, row, task_id, states.FAILED)
    row.failure_reason = reason
    queue.tally.died(reason)
    note(space, What.DEAD, queue, number, row)
    for queue_id in (tables.ALL_QUEUES, queue.queue_id):
        key = tables.dead_letter_key(space.prefix, queue_id, row.finished_at_ms, number)
        space.workspace.put(tables.DEAD_LETTERS, key, _NOTHING)


def forget_end(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Take a terminal task out of what waits for its removal and of the dead letters."""
    workspace = space.workspace
    workspace.delete(tables.RETIRED, tables.at_key(space.prefix, row.retire_at_ms, number))
    if row.state == states.FAILED:
        for queue_id in (tables.ALL_QUEUES, queue.queue_id):
            key = tables.dead_letter_key(space.prefix, queue_id, row.finished_at_ms, number)
            workspace.delete(tables.DEAD_LETTERS, key)


def unlist(space: Space, queue: Queue, number: int, state: states.State) -> None:
    """Take a task out of the listing by state, and off its queue's counts."""
    key = tables.by_state_key(space.prefix, state, queue.queue_id, number)
    space.workspace.delete(tables.BY_STATE, key)
    queue.counts[state] -= 1
    queue.changed = space.batch.changed = True


def _list(space: Space, queue: Queue, number: int, state: states.State, listing: bytes) -> None:
    key = tables.by_state_key(space.prefix, state, queue.queue_id, number)
    space.workspace.put(tables.BY_STATE, key, listing)
    queue.counts[state] += 1
    queue.entries[state] += 1
    queue.changed = space.batch.changed = True


def _move(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    state: states.State,
    listing: bytes = _NOTHING,
) -> None:
    assert state in states.TRANSITIONS[row.state], f"task {number}: {row.state} to {state}"
    before = row.state
    if not row.type_digest and state == states.PENDING:
        ordering.know_type(space.workspace, space.prefix, number, row)
    unlist(space, queue, number, before)
    row.state = state
    queue.moved(number, row, before)
    if state in states.WAITING:
        _index_waiting(space, queue, number, row)
    _list(space, queue, number, state, listing)


def _index_waiting(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Add a waiting task to what makes it ready or expires it, before it is counted."""
    if row.state == states.PENDING:
        ordering.enter(space, queue, number, row)
    else:
        due_key = tables.at_key(space.prefix, row.due_at_ms, number)
        space.workspace.put(tables.DUE, due_key, _NOTHING)
        space.wake_at(row.due_at_ms)
    if row.expire_at_ms:
        expire_key = tables.at_key(space.prefix, row.expire_at_ms, number)
        space.workspace.put(tables.EXPIRING, expire_key, _NOTHING)
        space.wake_at(row.expire_at_ms)


def _unindex_waiting(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Take a waiting task out of the same, while it is still counted."""
    if row.state == states.PENDING:
        ordering.leave(space, queue, number, row)
    else:
        space.workspace.delete(tables.DUE, tables.at_key(space.prefix, row.due_at_ms, number))
    if row.expire_at_ms:
        space.workspace.delete(
            tables.EXPIRING, tables.at_key(space.prefix, row.expire_at_ms, number)
        )
