"""Move tasks from state to state, with every index and count.

Each function changes the task's row and every index and count of it. The caller stores the row
itself, since a decision often changes it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel import purged
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.indexes import INDEX_OF, NOTHING
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.model.events import What
from tq_cluster.core.model.limits import DAY_MS
from tq_cluster.core.model.operations import Lease
from tq_cluster.core.model.types import DurationMs, TaskId, TaskNumber
from tq_cluster.core.rows import rows, tables

AttemptEnd: TypeAlias = task_pb2.Attempt.End.ValueType

RETENTION_MS: Final[dict[states.State, int]] = {
    states.COMPLETED: DAY_MS,
    states.CANCELLED: DAY_MS,
    states.FAILED: 14 * DAY_MS,
}
"""How long a task is kept after its end, in ms, unless its spec says otherwise."""


# --- the moments of a task's life ---


def arrive(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Add a new task: BLOCKED if it waits for others, SCHEDULED if it is due later, or PENDING."""
    row.state = states.SCHEDULED if row.due_at_ms > space.now_ms else states.PENDING
    if row.dependencies_held < row.dependencies_needed:
        row.state = states.BLOCKED
    if queue.purged_to:
        purged.note_arrival(queue, row)
    if row.state == states.PENDING:
        for step in space.moments.ready:
            step(space, queue, number, row)
    _index(space, queue, number, row)
    queue.entries[states.NONE] += 1
    queue.moved(number, row, states.NONE)
    _list(space, queue, number, row.state, NOTHING)
    for step in space.moments.arrive:
        step(space, queue, number, row)


def unblock(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Let a BLOCKED task go on: SCHEDULED until its run_at, if that lies ahead, else PENDING."""
    if queue.purged_to and purged.covers(queue, number, row):
        purge(space, queue, number, row)
        return
    later = row.due_at_ms > space.now_ms
    row.due_at_ms = max(row.due_at_ms, space.now_ms)
    _move(space, queue, number, row, states.SCHEDULED if later else states.PENDING)


def make_pending(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Make a task PENDING; its ``due_at_ms`` sets its place in the ready order."""
    if queue.purged_to and purged.covers(queue, number, row):
        purge(space, queue, number, row)
        return
    _move(space, queue, number, row, states.PENDING)


def make_retrying(
    space: Space, queue: Queue, number: int, row: state_pb2.TaskRow, due_at_ms: int
) -> None:
    """Let a task wait for its next attempt."""
    row.due_at_ms = due_at_ms
    _move(space, queue, number, row, states.RETRYING)
    space.note(What.RETRIED, queue, number, row)


def start(
    space: Space,
    queue: Queue,
    number: TaskNumber,
    row: state_pb2.TaskRow,
    task_id: TaskId,
    worker_id: str,
    lease_ms: DurationMs,
) -> None:
    """Begin an attempt: grant a lease under the next token."""
    token = space.next_token()
    # What comes beside a purge, in the same millisecond, is due in one of the next.
    queue.tally.waited_ms.append(max(0, space.now_ms - row.due_at_ms))
    listing = state_pb2.LeaseRow(token=token, task_id=task_id, lease_ms=lease_ms)
    _move(space, queue, number, row, states.RUNNING, listing.SerializeToString())
    row.token = token
    row.worker_id = worker_id
    row.started_at_ms = space.now_ms
    row.lease_ms = lease_ms
    row.attempts_made += 1
    space.wakeups.granted.append(Lease(token, number, task_id, lease_ms, space.namespace))
    for step in space.moments.start:
        step(space, queue, number, row)


def end_lease(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    end: AttemptEnd,
    then: Callable[[], None],
    *,
    error: str = "",
    reported: bool = False,
) -> None:
    """End a lease, by report, expiry, restore or recover, but not by a completion.

    The lease is given back, ``then`` moves the task on, and the attempt is added to the task's
    history. ``reported`` keeps the task's next state there for a repeated report. A completion is
    stored in the task's own row: it calls `give_back`, lets the children arrive and calls `finish`.
    """
    if (told := _TOLD_AT_END.get(end)) is not None:
        space.note(told, queue, number, row)
    give_back(space, queue, number, row)
    attempt = state_pb2.AttemptRow(
        number=row.attempts_made,
        token=row.token,
        worker_id=row.worker_id,
        started_at_ms=row.started_at_ms,
        ended_at_ms=space.now_ms,
        end=end,
        error=error,
    )
    if end == task_pb2.Attempt.END_RELEASED:
        row.attempts_made -= 1
    then()
    if reported:
        attempt.reported_state = row.state
        if row.state == states.RETRYING:
            attempt.due_at_ms = row.due_at_ms
    _put_attempt(space, number, row, attempt)


_TOLD_AT_END: Final[Mapping[AttemptEnd, What]] = {
    task_pb2.Attempt.END_RELEASED: What.RELEASED,
    task_pb2.Attempt.END_LEASE_EXPIRED: What.LEASE_EXPIRED,
}


def give_back(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Release all that a live attempt holds: the first step of its end."""
    for step in space.moments.give_back:
        step(space, queue, number, row)


def finish(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    task_id: str,
    state: states.State,
) -> None:
    """Make a task terminal, to be kept for its retention; one that is purged becomes CANCELLED."""
    now_ms = space.now_ms
    if queue.purged_to and purged.covers(queue, number, row):
        state = purged.as_cancelled(row)
    if state == states.CANCELLED and not row.cancel_reason:
        row.cancel_reason = task_pb2.CANCEL_REASON_REQUESTED
    _move(space, queue, number, row, state)
    queue.tally.ended(state, now_ms - row.submitted_at_ms, row.attempts_made)
    kept_ms = row.retention_ms if row.HasField("retention_ms") else RETENTION_MS[state]
    row.finished_at_ms = now_ms
    row.retire_at_ms = now_ms + kept_ms
    row.cancel_requested = False
    retired_key = tables.at_key(space.prefix, row.retire_at_ms, number)
    space.workspace.put(tables.RETIRED, retired_key, task_id.encode())
    space.wakeups.finished.add((space.namespace, TaskId(task_id)))
    for step in space.moments.end:
        step(space, queue, number, row)


def purge(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Cancel a task that the purge of its queue covers."""
    task_id = rows.read_spec(space.workspace, space.prefix, number).task_id
    finish(space, queue, number, row, task_id, states.CANCELLED)


def fail(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    task_id: str,
    reason: task_pb2.FailureReason.ValueType,
) -> None:
    """Make a task a dead letter."""
    row.failure_reason = reason
    finish(space, queue, number, row, task_id, states.FAILED)


def reopen(
    space: Space, queue: Queue, number: int, row: state_pb2.TaskRow, state: states.State
) -> None:
    """Bring a dead letter back to PENDING or BLOCKED, with no attempts made."""
    forget_end(space, queue, number, row)
    if row.expire_at_ms <= space.now_ms:
        row.expire_at_ms = 0  # an operator wants it started, even this late
    row.attempts_made = 0
    row.redrives += 1
    row.failure_reason = task_pb2.FAILURE_REASON_UNSPECIFIED
    row.finished_at_ms = 0
    row.retire_at_ms = 0
    row.ended_by = row.let_go = 0
    _move(space, queue, number, row, state)
    space.note(What.REDRIVEN, queue, number, row)


def retire_now(space: Space, number: int) -> None:
    """Have a task looked at again that is past its retention, if its removal was put off."""
    key = tables.number_key(space.prefix, number)
    found = space.workspace.get(tables.TASKS, key)
    if found is None:
        return
    row = state_pb2.TaskRow.FromString(found)
    if row.state not in states.TERMINAL or row.retire_at_ms <= space.now_ms:
        return
    kept_ms = row.retention_ms if row.HasField("retention_ms") else RETENTION_MS[row.state]
    if row.finished_at_ms + kept_ms <= space.now_ms:
        task_id = rows.read_spec(space.workspace, space.prefix, number).task_id.encode()
        put_off_removal(space, number, row, task_id, 0)


def put_off_removal(
    space: Space, number: int, row: state_pb2.TaskRow, task_id: bytes, by_ms: int
) -> None:
    """Keep a terminal task that is past its retention for another while."""
    before = tables.at_key(space.prefix, row.retire_at_ms, number)
    space.workspace.delete(tables.RETIRED, before)
    row.retire_at_ms = space.now_ms + by_ms
    after = tables.at_key(space.prefix, row.retire_at_ms, number)
    space.workspace.put(tables.RETIRED, after, task_id)
    space.put_task(number, row)


def forget_end(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Remove a terminal task's rows in RETIRED and DEAD_LETTERS."""
    workspace = space.workspace
    workspace.delete(tables.RETIRED, tables.at_key(space.prefix, row.retire_at_ms, number))
    if row.state == states.FAILED:
        for queue_id in (tables.ALL_QUEUES, queue.queue_id):
            key = tables.dead_letter_key(space.prefix, queue_id, row.finished_at_ms, number)
            workspace.delete(tables.DEAD_LETTERS, key)


def unlist(space: Space, queue: Queue, number: int, state: states.State) -> None:
    """Remove a task from the listing by state and from its queue's counts."""
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
    listing: bytes = NOTHING,
) -> None:
    before = row.state
    assert state in states.TRANSITIONS[before], f"task {number}: {before} to {state}"
    if queue.purged_to:
        purged.note_move(queue, number, row, state)
    if state == states.PENDING:
        for step in space.moments.ready:
            step(space, queue, number, row)
    _unindex(space, queue, number, row)
    unlist(space, queue, number, before)
    row.state = state
    queue.moved(number, row, before)
    _index(space, queue, number, row)
    _list(space, queue, number, state, listing)


# --- the index of each waiting state ---


def _index(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    index = INDEX_OF.get(row.state)
    if index is None:
        return
    index.enter(space, queue, number, row)
    if row.expire_at_ms:
        expire_key = tables.at_key(space.prefix, row.expire_at_ms, number)
        space.workspace.put(tables.EXPIRING, expire_key, NOTHING)


def _unindex(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    index = INDEX_OF.get(row.state)
    if index is None:
        return
    index.leave(space, queue, number, row)
    if row.expire_at_ms:
        expire_key = tables.at_key(space.prefix, row.expire_at_ms, number)
        space.workspace.delete(tables.EXPIRING, expire_key)


def _put_attempt(
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
