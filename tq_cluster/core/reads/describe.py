"""Tasks and queues as callers see them, assembled from their rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.dependencies import edges
from tq_cluster.core.kernel.queue import Queue, settings_of
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.model.proto_time import put_ms
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.view import View

_LAST_ERROR_SEARCH: Final = DEFAULT_LIMITS.attempts_kept


def whole_task(view: View, prefix: bytes, number: int, row: state_pb2.TaskRow) -> task_pb2.Task:
    """Return everything about a task except its payload and result."""
    task = brief_task(row, rows.read_spec(view, prefix, number))
    task.spec.payload = b""
    add_history(view, prefix, number, row, task)
    if row.has_result:
        task.result_content_type = rows.read_result(view, prefix, number).content_type
    return task


def add_task_with_payload(
    view: Reader, prefix: bytes, number: int, row: state_pb2.TaskRow, task: task_pb2.Task
) -> Steps[bool]:
    """Put everything about a task into ``task``, in steps; False if it was removed meanwhile."""
    task.CopyFrom(brief_task(row, rows.read_spec(view, prefix, number)))
    add_history(view, prefix, number, row, task)
    result = _result(view, prefix, number, row)
    view.expect(_chunks_bytes(row, result))
    if row.has_result:
        task.result_content_type = result.content_type
        task.result = result.result
    # Large content is put in its final place: every copy of it takes milliseconds.
    if result.chunks:
        content = yield from _content(view, tables.RESULT_CHUNKS, prefix, number, result.chunks)
        if content is None:
            return False
        task.result = content
    if row.payload_chunks:
        content = yield from _content(view, tables.PAYLOADS, prefix, number, row.payload_chunks)
        if content is None:
            return False
        task.spec.payload = content
    return True


def content_bytes(view: View, prefix: bytes, number: int, row: state_pb2.TaskRow) -> int:
    """Return the most bytes that the chunks of a task's payload and result may have."""
    return _chunks_bytes(row, _result(view, prefix, number, row))


def _chunks_bytes(row: state_pb2.TaskRow, result: state_pb2.ResultRow) -> int:
    return (row.payload_chunks + result.chunks) * tables.CHUNK_BYTES


def _result(view: View, prefix: bytes, number: int, row: state_pb2.TaskRow) -> state_pb2.ResultRow:
    return rows.read_result(view, prefix, number) if row.has_result else state_pb2.ResultRow()


def _content(
    view: Reader, table: int, prefix: bytes, number: int, count: int
) -> Steps[bytes | None]:
    """Return the content of ``count`` chunks, in steps; None if they were removed meanwhile.

    The chunks of a task number never change.
    """
    pieces: list[bytes] = []
    while True:
        start = tables.chunk_key(prefix, number, len(pieces))
        stop = tables.chunk_key(prefix, number, count)
        for _, piece in view.scan(table, start, stop, limit=count):
            pieces.append(piece)
            if view.step_is_over:
                break
        else:
            return b"".join(pieces) if len(pieces) == count else None
        yield


def add_dependencies(
    view: Reader, prefix: bytes, number: int, row: state_pb2.TaskRow, task: task_pb2.Task
) -> Steps[bool]:
    """Add what a task depends on and what became of it, in steps; False if it was removed."""
    if row.ended_by:
        task.ended_by = _id_of(view, prefix, row.ended_by)
    if not row.has_dependencies:
        return True
    all_of_it = edges.find_dependencies(view, prefix, number)
    if all_of_it is None:
        return False
    task.spec.depends_on.extend(all_of_it.depends_on)
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        told = task.dependencies.add(task_id=dependency.task_id)
        parent = view.get(tables.TASKS, tables.number_key(prefix, parent_number))
        if parent is not None:
            told.state = state_pb2.TaskRow.FromString(parent).state
        edge = edges.read_edge(view, prefix, parent_number, dependency, number)
        if edge is not None:
            told.status = edge.status
        if view.step_is_over:
            yield
    return True


def _id_of(view: View, prefix: bytes, number: int) -> str:
    """Return the id of a task by its number; empty if it is gone."""
    found = view.get(tables.SPECS, tables.number_key(prefix, number))
    return "" if found is None else task_pb2.TaskSpec.FromString(found).task_id


def brief_task(row: state_pb2.TaskRow, spec: task_pb2.TaskSpec) -> task_pb2.Task:
    """Return a task from its spec and its row, without history."""
    task = task_pb2.Task(
        spec=spec,
        state=row.state,
        failure_reason=row.failure_reason,
        attempts_made=row.attempts_made,
        cancel_requested=row.cancel_requested,
        redrives=row.redrives,
        cancel_reason=row.cancel_reason,
    )
    put_ms(task.submitted_at, row.submitted_at_ms)
    if row.state in states.WAITING and row.state != states.BLOCKED:
        put_ms(task.due_at, row.due_at_ms)
    if row.state in states.TERMINAL:
        put_ms(task.finished_at, row.finished_at_ms)
    return task


def add_history(
    view: View, prefix: bytes, number: int, row: state_pb2.TaskRow, task: task_pb2.Task
) -> None:
    """Add the newest attempts, the live or successful one included, and the last error."""
    kept = DEFAULT_LIMITS.attempts_kept
    history = rows.read_history(view, prefix, number, row, kept)
    current = row.state in (states.RUNNING, states.COMPLETED)
    task.last_error = _last_error(history)
    for ended in reversed(history[: kept - current]):
        attempt = task.attempts.add(
            number=ended.number,
            token=ended.token,
            worker_id=ended.worker_id,
            end=ended.end,
            error=ended.error,
        )
        put_ms(attempt.started_at, ended.started_at_ms)
        put_ms(attempt.ended_at, ended.ended_at_ms)
    if current:
        attempt = task.attempts.add(
            number=row.attempts_made, token=row.token, worker_id=row.worker_id
        )
        put_ms(attempt.started_at, row.started_at_ms)
        if row.state == states.RUNNING:
            attempt.end = task_pb2.Attempt.END_RUNNING
        else:
            attempt.end = task_pb2.Attempt.END_COMPLETED
            put_ms(attempt.ended_at, row.finished_at_ms)


def last_error(view: View, prefix: bytes, number: int, row: state_pb2.TaskRow) -> str:
    """Return the error of the last failed attempt among those kept, reading no older ones."""
    return _last_error(rows.newest_attempts(view, prefix, number, row, _LAST_ERROR_SEARCH))


def _last_error(newest_first: Iterable[state_pb2.AttemptRow]) -> str:
    for attempt in newest_first:
        if attempt.end == task_pb2.Attempt.END_FAILED:
            return attempt.error
    return ""


def queue_stats(view: View, prefix: bytes, queue: Queue) -> queue_service_pb2.QueueStats:
    """Return a queue's counts as callers see them."""
    counts = queue.counts
    stats = queue_service_pb2.QueueStats(
        queue=queue.name,
        scheduled=counts[states.SCHEDULED],
        pending=counts[states.PENDING],
        running=counts[states.RUNNING],
        retrying=counts[states.RETRYING],
        completed=counts[states.COMPLETED],
        failed=counts[states.FAILED],
        cancelled=counts[states.CANCELLED],
        blocked=counts[task_pb2.TASK_STATE_BLOCKED],
        settings=settings_of(queue),
        totals=totals_of(queue),
        purging=queue.purge_left,
    )
    head_due_ms = ready_order.head_due_ms(view, prefix, queue)
    if head_due_ms is not None:
        put_ms(stats.oldest_pending_at, head_due_ms)
    return stats


def totals_of(queue: Queue) -> queue_service_pb2.QueueTotals:
    """Return a queue's totals since they have been counted."""
    entries = queue.entries
    return queue_service_pb2.QueueTotals(
        submitted=entries[states.NONE],
        claimed=entries[states.RUNNING],
        completed=entries[states.COMPLETED],
        retried=entries[states.RETRYING],
        failed=entries[states.FAILED],
        cancelled=entries[states.CANCELLED],
    )
