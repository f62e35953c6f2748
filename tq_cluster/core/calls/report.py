"""Report the ends of attempts.

The fencing token alone decides whether a report counts. The lease's deadline is not checked: until
the expiry itself is decided the worker still owns the task, and refusing a late completion would
only make a second worker repeat finished work.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2, worker_service_pb2
from tq_cluster.core.calls import submit
from tq_cluster.core.kernel import retries, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.kernel.validation import (
    check_count,
    check_dependencies_in_all,
    check_outcome,
    item_error,
    too_large,
)
from tq_cluster.core.model import states
from tq_cluster.core.model.ids import child_seed, derived_id, echoed
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import Refused, Replied, Report, Steps
from tq_cluster.core.model.proto_time import put_ms, to_ms
from tq_cluster.core.model.types import DurationMs, TaskId, TaskNumber
from tq_cluster.core.rows import rows, tables

_Result = worker_service_pb2.ReportResult


def decide_report(space: Space, operation: Report) -> Steps:
    """Record each report on its own, in the given order."""
    request = operation.request
    fault = check_count("reports", len(request.reports), space.limits.reports_max)
    if fault is not None:
        return fault
    reply = worker_service_pb2.ReportResponse()
    room = _Room(space.limits)
    for report in request.reports:
        yield
        result = reply.results.add()
        result.task_id = echoed(report.task_id)
        found = rows.find_task(space.workspace, space.prefix, report.task_id)
        if found is None:
            result.status = _Result.STATUS_NOT_FOUND
            continue
        number, row = found
        if row.state == states.RUNNING and row.token == report.token:
            if report.HasField("complete") and report.complete.submit:
                yield from _record_with_children(space, report, number, row, result, room)
            else:
                _record(space, report, number, row, result)
        else:
            _recognise(space, report, number, row, result)
    return Replied(reply=reply)


class _Room:
    """The tasks, dependencies and bytes that one call may still create."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tasks = limits.report_submit_tasks_max
        self._bytes = limits.report_submit_bytes_max
        self._dependencies = limits.call_dependencies_max

    def take(self, submitted: Sequence[task_pb2.TaskSpec]) -> Refused | None:
        """Reserve room for the tasks of a completion, or refuse it, before they are checked.

        A completion that is refused later for another reason keeps its room: it cost work.
        """
        limits = self._limits
        count = len(submitted)
        if count > self._tasks:
            most = limits.report_submit_tasks_max
            return _no_room(f"{count} tasks, and {self._tasks} of {most} tasks", most)
        self._tasks -= count
        fault = check_dependencies_in_all("complete.submit", submitted, limits)
        if fault is not None:
            return fault
        dependencies = sum(len(spec.depends_on) for spec in submitted)
        if dependencies > self._dependencies:
            most = limits.call_dependencies_max
            left = f"{dependencies} dependencies, and {self._dependencies} of {most}"
            return _no_room(left, most)
        self._dependencies -= dependencies
        size = sum(spec.ByteSize() for spec in submitted)
        if size > limits.report_submit_bytes_max:
            return too_large("complete.submit", size, limits.report_submit_bytes_max)
        if size > self._bytes:
            most = limits.report_submit_bytes_max
            return _no_room(f"{size} bytes, and {self._bytes} of {most} bytes", most)
        self._bytes -= size
        return None


def _no_room(left: str, most: int) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_CALL_FULL,
        message=f"complete.submit has {left} that one Report may create were left after the items"
        " before it: report it again, in another call",
        field="complete.submit",
        metadata={"field": "complete.submit", "limit": str(most)},
        retry_after_ms=DurationMs(0),
    )


def _record(
    space: Space,
    report: worker_service_pb2.TaskReport,
    number: TaskNumber,
    row: state_pb2.TaskRow,
    result: _Result,
) -> None:
    """Record a report of the worker that holds the task."""
    fault = check_outcome(report, space.limits)
    if fault is not None:
        _refuse(row, result, fault)
        return
    queue = space.queue(row.queue_id)
    result.status = _Result.STATUS_RECORDED
    if report.HasField("complete"):
        transitions.give_back(space, queue, number, row)
        _complete(space, report, queue, number, row, [])
    elif row.cancel_requested:
        error = report.fail.error if report.HasField("fail") else report.release.reason
        _end_cancelled(space, queue, number, row, report.task_id, error)
        result.status = _Result.STATUS_CANCELLED
    elif report.HasField("fail"):
        _fail(space, report, queue, number, row)
    else:
        _release(space, report, queue, number, row)
    space.put_task(number, row)
    result.state = row.state
    if row.state == states.RETRYING:
        put_ms(result.due_at, row.due_at_ms)


def _record_with_children(
    space: Space,
    report: worker_service_pb2.TaskReport,
    number: TaskNumber,
    row: state_pb2.TaskRow,
    result: _Result,
    room: _Room,
) -> Generator[None]:
    """Record a completion and all the tasks that it submits, or none of it."""
    submitted = report.complete.submit
    fault = check_outcome(report, space.limits) or room.take(submitted)
    if fault is not None:
        _refuse(row, result, fault)
        return
    seed = child_seed(report.task_id, report.token)
    children = [
        TaskId(spec.task_id) or derived_id(seed, item) for item, spec in enumerate(submitted)
    ]
    plan = yield from submit.plan_together(space, submitted, children, "complete.submit")
    if isinstance(plan, Refused):
        _refuse(row, result, plan)
        return
    queue = space.queue(row.queue_id)
    transitions.give_back(space, queue, number, row)
    yield from submit.create_together(space, plan)
    # A child may depend on this very task.
    row.has_dependents = rows.read_task(space.workspace, space.prefix, number).has_dependents
    _complete(space, report, queue, number, row, children)
    space.put_task(number, row)
    result.status = _Result.STATUS_RECORDED
    result.state = row.state
    result.submitted_task_ids.extend(children)


def _refuse(row: state_pb2.TaskRow, result: _Result, fault: Refused) -> None:
    result.status = _Result.STATUS_REFUSED
    result.state = row.state
    result.error.CopyFrom(item_error(fault))


def _recognise(
    space: Space,
    report: worker_service_pb2.TaskReport,
    number: TaskNumber,
    row: state_pb2.TaskRow,
    result: _Result,
) -> None:
    """Answer a report whose token is not that of the task's live lease; change nothing."""
    result.state = row.state
    if row.state == states.COMPLETED and row.token == report.token:
        result.status = _Result.STATUS_ALREADY_RECORDED
        if row.has_result:
            recorded = rows.read_result(space.workspace, space.prefix, number)
            result.submitted_task_ids.extend(recorded.submitted_task_ids)
        return
    kept = space.limits.attempts_kept
    for attempt in rows.read_history(space.workspace, space.prefix, number, row, kept):
        if attempt.token == report.token and attempt.reported_state:
            result.status = _Result.STATUS_ALREADY_RECORDED
            result.state = attempt.reported_state
            if attempt.due_at_ms:
                put_ms(result.due_at, attempt.due_at_ms)
            return
    result.status = _Result.STATUS_LEASE_LOST


def _complete(
    space: Space,
    report: worker_service_pb2.TaskReport,
    queue: Queue,
    number: TaskNumber,
    row: state_pb2.TaskRow,
    children: list[TaskId],
) -> None:
    """Record success, once its children have arrived.

    It counts even if a cancel was requested: the worker was first.
    """
    completion = report.complete
    transitions.finish(space, queue, number, row, report.task_id, states.COMPLETED)
    if completion.result or completion.content_type or children:
        row.has_result = True
        _put_result(space, number, completion, children)


def _put_result(
    space: Space,
    number: TaskNumber,
    completion: worker_service_pb2.Completion,
    children: list[TaskId],
) -> None:
    stored = state_pb2.ResultRow(content_type=completion.content_type, submitted_task_ids=children)
    if len(completion.result) > tables.INLINE_BYTES_MAX:
        stored.chunks = rows.put_chunks(
            space.workspace, tables.RESULT_CHUNKS, space.prefix, number, completion.result
        )
    else:
        stored.result = completion.result
    key = tables.number_key(space.prefix, number)
    space.workspace.put(tables.RESULTS, key, stored.SerializeToString(deterministic=True))


def _fail(
    space: Space,
    report: worker_service_pb2.TaskReport,
    queue: Queue,
    number: TaskNumber,
    row: state_pb2.TaskRow,
) -> None:
    failure = report.fail
    task = (space, queue, number, row)
    if failure.permanent:
        reason = task_pb2.FAILURE_REASON_PERMANENT_ERROR
        then = partial(transitions.fail, *task, report.task_id, reason)
    else:
        after_ms = to_ms(failure.retry_after) if failure.HasField("retry_after") else None
        then = partial(retries.retry_or_fail, *task, report.task_id, after_ms)
    error = _cut(failure.error, space.limits.error_bytes_max)
    end = task_pb2.Attempt.END_FAILED
    transitions.end_lease(*task, end, then, error=error, reported=True)


def _release(
    space: Space,
    report: worker_service_pb2.TaskReport,
    queue: Queue,
    number: TaskNumber,
    row: state_pb2.TaskRow,
) -> None:
    """Return the task to its old place in the order; the attempt does not count.

    After a pause, its new due time sets its place. Past ``give_up_after`` the task fails.
    """
    release = report.release
    task = (space, queue, number, row)
    end = task_pb2.Attempt.END_RELEASED
    pause_ms = to_ms(release.pause) if release.HasField("pause") else 0
    if release.HasField("give_up_after") and _unfit_for_ms(space, row) >= to_ms(
        release.give_up_after
    ):
        end = task_pb2.Attempt.END_FAILED
        given_up = task_pb2.FAILURE_REASON_PERMANENT_ERROR
        then = partial(transitions.fail, *task, report.task_id, given_up)
    elif pause_ms:
        then = partial(transitions.make_retrying, *task, space.now_ms + pause_ms)
    else:
        then = partial(transitions.make_pending, *task)
    reason = _cut(release.reason, space.limits.error_bytes_max)
    transitions.end_lease(*task, end, then, error=reason, reported=True)


def _unfit_for_ms(space: Space, row: state_pb2.TaskRow) -> int:
    """Return for how many ms workers have released this attempt as one that they cannot run."""
    # A failed or expired attempt restarts the time, also if an older leader decided it.
    attempt_of = (row.attempts_made, row.redrives)
    if not row.unfit_since_ms or (row.unfit_attempt, row.unfit_redrives) != attempt_of:
        row.unfit_since_ms = space.now_ms
        row.unfit_attempt, row.unfit_redrives = attempt_of
    return space.now_ms - row.unfit_since_ms


def _end_cancelled(
    space: Space,
    queue: Queue,
    number: TaskNumber,
    row: state_pb2.TaskRow,
    task_id: str,
    error: str,
) -> None:
    """Cancel a task, marked to be cancelled, whose attempt failed or was released."""
    task = (space, queue, number, row)
    cancelled = partial(transitions.finish, *task, task_id, states.CANCELLED)
    kept = _cut(error, space.limits.error_bytes_max)
    end = task_pb2.Attempt.END_CANCELLED
    transitions.end_lease(*task, end, cancelled, error=kept, reported=True)


def _cut(text: str, bytes_max: int) -> str:
    """Return as much of a text as fits, whole characters only."""
    if len(text) <= bytes_max and text.isascii():
        return text
    return text.encode()[:bytes_max].decode(errors="ignore")


FEATURE: Final = Feature(name="report", decisions=(decides(Report, decide_report),))
