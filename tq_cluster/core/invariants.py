"""Invariants of the whole state, for tests and simulations.

The audit makes every index and count from the tasks' own rows, and compares. What holds of all
tasks and queues is here; each feature has an audit of its own tables.
"""

from __future__ import annotations

from collections.abc import Iterator

from tq.internal.v1 import state_pb2
from tq_cluster.core.features import REGISTRY
from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.audit import Audited, Rows, Task
from tq_cluster.core.kernel.feature import Registry
from tq_cluster.core.kernel.queue import BAND_SHIFT, UPPER_BANDS
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View


def violations(scope: Scope[View], registry: Registry = REGISTRY) -> list[str]:
    """Return the faults of one namespace of a state, in words; empty if it is healthy."""
    state = Audited(scope)
    found = state.faults
    for audit in (_tasks, _queues, _indexes, _content, *registry.audits):
        found.extend(audit(state))
    return found


def _tasks(state: Audited) -> Iterator[str]:
    for task in state.tasks:
        yield from _task(state, task)


def _task(state: Audited, task: Task) -> Iterator[str]:
    number, row, _ = task
    if number > state.counters.task_number:
        yield f"task {number} is above the counter, {state.counters.task_number}"
    if row.state not in states.TRANSITIONS:
        yield f"task {number} is in state {row.state}"
    if row.attempts_made > row.max_attempts:
        yield f"task {number} has made {row.attempts_made} of {row.max_attempts} attempts"
    if row.state == states.RUNNING and not row.attempts_made:
        yield f"task {number} runs without an attempt"
    if row.cancel_requested and row.state != states.RUNNING:
        yield f"task {number} is marked to be cancelled in state {row.state}"
    terminal = row.state in states.TERMINAL
    if bool(row.finished_at_ms) != terminal or bool(row.retire_at_ms) != terminal:
        yield f"task {number} in state {row.state} finished at {row.finished_at_ms}"
    if bool(row.failure_reason) != (row.state == states.FAILED):
        yield f"task {number} in state {row.state} has failure reason {row.failure_reason}"
    if row.has_result and row.state != states.COMPLETED:
        yield f"task {number} has a result in state {row.state}"


class _Counted:
    """The counts that a queue's row should have."""

    def __init__(self) -> None:
        self.by_state = [0] * len(states.ALL)
        self.upper_bands = {state: [0] * UPPER_BANDS for state in states.ALL}

    def add(self, row: state_pb2.TaskRow) -> None:
        """Count a task of the queue."""
        self.by_state[row.state] += 1
        if band := row.priority >> BAND_SHIFT:
            self.upper_bands[row.state][band - 1] += 1


def _queues(state: Audited) -> Iterator[str]:
    counted = {queue_id: _Counted() for queue_id in state.queues}
    for row in state.rows_of_tasks.values():
        if row.queue_id in counted:
            counted[row.queue_id].add(row)
    for queue_id, queue in state.queues.items():
        has = counted[queue_id]
        if queue.counts != has.by_state:
            yield f"queue {queue.name} counts {queue.counts}, has {has.by_state}"
        for each in states.UNFINISHED:
            if queue.upper_bands(each) != has.upper_bands[each]:
                yield (
                    f"queue {queue.name} counts {queue.upper_bands(each)} in the upper bands"
                    f" of state {each}, has {has.upper_bands[each]}"
                )
        if queue_id > state.counters.queue_id:
            yield f"queue {queue.name} is above the counter, {state.counters.queue_id}"
    names: Rows = {
        tables.name_key(state.prefix, queue.name): queue_id.to_bytes(4, "big")
        for queue_id, queue in state.queues.items()
    }
    yield from state.compare(tables.QUEUE_IDS, names)


def _indexes(state: Audited) -> Iterator[str]:
    """Check the tables that tasks of every kind are in, by id, by state, and if they are ready."""
    prefix = state.prefix
    ids: Rows = {}
    by_state: Rows = {}
    ready: Rows = {}
    lanes: Rows = {}
    for number, row, spec in state.tasks:
        ids[tables.name_key(prefix, spec.task_id)] = number.to_bytes(8, "big")
        listing = b""
        if row.state == states.RUNNING:
            lease = state_pb2.LeaseRow(token=row.token, task_id=spec.task_id, lease_ms=row.lease_ms)
            listing = lease.SerializeToString()
        by_state[tables.by_state_key(prefix, row.state, row.queue_id, number)] = listing
        if row.state == states.PENDING:
            lane = ready_order.LANE
            place = row.priority, row.due_at_ms, number
            ready_key = tables.ready_key(prefix, row.queue_id, lane, *place)
            ready[ready_key] = ready_order.ready_value(row.type_digest)
            lanes[tables.lane_key(prefix, row.queue_id, 0, 0, lane)] = b""
    yield from state.compare(tables.TASK_IDS, ids)
    yield from state.compare(tables.BY_STATE, by_state)
    yield from state.compare(tables.READY, ready)
    yield from state.compare(tables.LANES, lanes)


def _content(state: Audited) -> Iterator[str]:
    """Check that payloads, results and attempts are there, and belong to a task."""
    prefix = state.prefix
    expected: dict[int, set[bytes]] = {
        table: set()
        for table in (
            tables.SPECS,
            tables.PAYLOADS,
            tables.RESULTS,
            tables.RESULT_CHUNKS,
            tables.ATTEMPTS,
        )
    }
    for number, row, _ in state.tasks:
        number_key = tables.number_key(prefix, number)
        expected[tables.SPECS].add(number_key)
        for chunk in range(row.payload_chunks):
            expected[tables.PAYLOADS].add(tables.chunk_key(prefix, number, chunk))
        if row.has_result:
            expected[tables.RESULTS].add(number_key)
            result = rows.read_result(state.view, prefix, number)
            for chunk in range(result.chunks):
                expected[tables.RESULT_CHUNKS].add(tables.chunk_key(prefix, number, chunk))
        first = max(0, row.history_length - DEFAULT_LIMITS.attempts_kept)
        for place in range(first, row.history_length):
            expected[tables.ATTEMPTS].add(tables.attempt_key(prefix, number, place))
    for table, keys in expected.items():
        for key in sorted(state.rows(table).keys() ^ keys):
            what = "is missing" if key in keys else "belongs to nothing"
            yield f"table {table}, key {key.hex()}: {what}"
