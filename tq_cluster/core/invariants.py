"""Invariants of the whole state, for tests and simulations.

The audit rebuilds every index and count from the tasks' own rows, and compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.housekeeping import backfill
from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.batch import TOKEN_MAX
from tq_cluster.core.kernel.queue import BAND_SHIFT, UPPER_BANDS, Queue, read_queue
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

_EVERYTHING: Final = 1 << 40

Rows = dict[bytes, bytes]


def violations(scope: Scope[View]) -> list[str]:
    """Return the faults of one namespace of a state, in words; empty if it is healthy."""
    return list(_Audit(scope).run())


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


class _Audit:
    """One pass over a state."""

    def __init__(self, scope: Scope[View]) -> None:
        view = self._view = scope.view
        self._prefix = scope.prefix
        counters = view.get(tables.META, tables.COUNTERS_KEY)
        self._counters = state_pb2.CountersRow.FromString(counters or b"")
        self._expected: dict[int, Rows] = {
            table: {}
            for table in (
                tables.TASK_IDS,
                tables.BY_STATE,
                tables.LANES,
                tables.READY,
                tables.DUE,
                tables.EXPIRING,
                tables.DEAD_LETTERS,
                tables.RETIRED,
                tables.READY_BY_TYPE,
            )
        }
        self._expected_keys: dict[int, set[bytes]] = {
            table: set()
            for table in (
                tables.SPECS,
                tables.PAYLOADS,
                tables.RESULTS,
                tables.RESULT_CHUNKS,
                tables.ATTEMPTS,
            )
        }
        self._tokens: dict[int, int] = {}

    def run(self) -> Iterator[str]:
        queues = {
            int.from_bytes(key[-4:], "big"): read_queue(
                self._view, self._prefix, int.from_bytes(key[-4:], "big")
            )
            for key in self._rows(tables.QUEUES)
        }
        counted = {queue_id: _Counted() for queue_id in queues}
        for key, value in self._rows(tables.TASKS).items():
            number = tables.split_number(key)
            row = state_pb2.TaskRow.FromString(value)
            if row.queue_id not in queues:
                yield f"task {number} is in queue {row.queue_id}, which does not exist"
                continue
            counted[row.queue_id].add(row)
            yield from self._task(number, row)
        yield from self._queues(queues, counted)
        yield from self._indexes()
        yield from self._requests()

    def _rows(self, table: int) -> Rows:
        stop = tables.end_of(self._prefix)
        return dict(self._view.scan(table, self._prefix, stop, limit=_EVERYTHING))

    def _task(self, number: int, row: state_pb2.TaskRow) -> Iterator[str]:
        """Check a task's own rows, and note the rows that other tables must have."""
        key = tables.number_key(self._prefix, number)
        spec_row = self._view.get(tables.SPECS, key)
        if spec_row is None:
            yield f"task {number} has no spec"
            return
        if row.has_result and self._view.get(tables.RESULTS, key) is None:
            yield f"task {number} has no result"
            return
        if number > self._counters.task_number:
            yield f"task {number} is above the counter, {self._counters.task_number}"
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
        yield from self._lease_tokens(number, row)
        yield from self._expect(number, row, task_pb2.TaskSpec.FromString(spec_row))
        self._expect_content(number, row)

    def _lease_tokens(self, number: int, row: state_pb2.TaskRow) -> Iterator[str]:
        kept = DEFAULT_LIMITS.attempts_kept
        history = rows.read_history(self._view, self._prefix, number, row, kept)
        tokens = [attempt.token for attempt in reversed(history)]
        if row.state in (states.RUNNING, states.COMPLETED):
            tokens.append(row.token)
        elif tokens and tokens[-1] != row.token:
            yield f"task {number} had token {row.token} last, its history ends in {tokens[-1]}"
        if any(later <= earlier for earlier, later in pairwise(tokens)):
            yield f"task {number} has tokens that do not rise: {tokens}"
        for token in tokens:
            if not 0 < token <= min(self._counters.token, TOKEN_MAX):
                yield f"task {number} has token {token}, the counter is {self._counters.token}"
            if token in self._tokens:
                yield f"tasks {self._tokens[token]} and {number} both had token {token}"
            self._tokens[token] = number

    def _expect(
        self, number: int, row: state_pb2.TaskRow, spec: task_pb2.TaskSpec
    ) -> Iterator[str]:
        prefix, queue_id = self._prefix, row.queue_id
        expected = self._expected
        id_key = tables.name_key(prefix, spec.task_id)
        expected[tables.TASK_IDS][id_key] = number.to_bytes(8, "big")
        listing = b""
        if row.state == states.RUNNING:
            lease = state_pb2.LeaseRow(token=row.token, task_id=spec.task_id, lease_ms=row.lease_ms)
            listing = lease.SerializeToString()
        state_key = tables.by_state_key(prefix, row.state, queue_id, number)
        expected[tables.BY_STATE][state_key] = listing
        if row.state == states.PENDING:
            lane = ready_order.LANE
            ready_key = tables.ready_key(
                prefix, queue_id, lane, row.priority, row.due_at_ms, number
            )
            digest = ready_order.ready_value(row.type_digest)
            expected[tables.READY][ready_key] = digest
            if digest:
                by_type = tables.by_type_key(ready_key, row.type_digest)
                expected[tables.READY_BY_TYPE][by_type] = b""
            elif tables.READY_BY_TYPE in self._counters.filled_tables:
                yield f"task {number} is ready, and its row does not say of which type"
            if row.type_digest not in (0, ready_order.type_digest(spec.type)):
                yield f"task {number} is of type {spec.type}, its row says {row.type_digest}"
            expected[tables.LANES][tables.lane_key(prefix, queue_id, 0, 0, lane)] = b""
        elif row.state in states.WAITING:
            expected[tables.DUE][tables.at_key(prefix, row.due_at_ms, number)] = b""
        if row.state in states.WAITING and row.expire_at_ms:
            expected[tables.EXPIRING][tables.at_key(prefix, row.expire_at_ms, number)] = b""
        if row.state in states.TERMINAL:
            retired_key = tables.at_key(prefix, row.retire_at_ms, number)
            expected[tables.RETIRED][retired_key] = spec.task_id.encode()
        if row.state == states.FAILED:
            for scope in (tables.ALL_QUEUES, queue_id):
                key = tables.dead_letter_key(prefix, scope, row.finished_at_ms, number)
                expected[tables.DEAD_LETTERS][key] = b""

    def _expect_content(self, number: int, row: state_pb2.TaskRow) -> None:
        prefix, keys = self._prefix, self._expected_keys
        number_key = tables.number_key(prefix, number)
        keys[tables.SPECS].add(number_key)
        for chunk in range(row.payload_chunks):
            keys[tables.PAYLOADS].add(tables.chunk_key(prefix, number, chunk))
        if row.has_result:
            keys[tables.RESULTS].add(number_key)
            result = rows.read_result(self._view, prefix, number)
            for chunk in range(result.chunks):
                keys[tables.RESULT_CHUNKS].add(tables.chunk_key(prefix, number, chunk))
        first = max(0, row.history_length - DEFAULT_LIMITS.attempts_kept)
        for place in range(first, row.history_length):
            keys[tables.ATTEMPTS].add(tables.attempt_key(prefix, number, place))

    def _queues(self, queues: dict[int, Queue], counted: dict[int, _Counted]) -> Iterator[str]:
        for queue_id, queue in queues.items():
            has = counted[queue_id]
            if queue.counts != has.by_state:
                yield f"queue {queue.name} counts {queue.counts}, has {has.by_state}"
            for state in states.UNFINISHED:
                if queue.upper_bands(state) != has.upper_bands[state]:
                    yield (
                        f"queue {queue.name} counts {queue.upper_bands(state)} in the upper bands"
                        f" of state {state}, has {has.upper_bands[state]}"
                    )
            if queue_id > self._counters.queue_id:
                yield f"queue {queue.name} is above the counter, {self._counters.queue_id}"
        named = {
            tables.name_key(self._prefix, queue.name): queue_id.to_bytes(4, "big")
            for queue_id, queue in queues.items()
        }
        if named != self._rows(tables.QUEUE_IDS):
            yield f"names of queues are {self._rows(tables.QUEUE_IDS)}, should be {named}"

    def _expect_half_filled(self) -> None:
        """Do not expect rows of READY_BY_TYPE that the backfill has yet to write."""
        expected = self._expected[tables.READY_BY_TYPE]
        if tables.READY_BY_TYPE not in self._counters.kept_tables:
            expected.clear()
        elif tables.READY_BY_TYPE not in self._counters.filled_tables:
            reached = backfill.progress(self._view).from_key
            found = self._rows(tables.READY_BY_TYPE)
            for key, digest in self._expected[tables.READY].items():
                by_type = tables.by_type_key(key, int.from_bytes(digest, "big"))
                if key >= reached and by_type not in found:
                    expected.pop(by_type, None)

    def _indexes(self) -> Iterator[str]:
        self._expect_half_filled()
        for table, expected in self._expected.items():
            found = self._rows(table)
            for key in sorted(found.keys() | expected.keys()):
                if found.get(key) != expected.get(key):
                    yield (
                        f"table {table}, key {key.hex()}: has {found.get(key)!r},"
                        f" should have {expected.get(key)!r}"
                    )
        for table, keys in self._expected_keys.items():
            for key in sorted(self._rows(table).keys() ^ keys):
                what = "is missing" if key in keys else "belongs to nothing"
                yield f"table {table}, key {key.hex()}: {what}"

    def _requests(self) -> Iterator[str]:
        # Of all namespaces: the counters are the cluster's.
        stop = tables.end_of(tables.GROUP_PREFIX[:1])
        found = dict(self._view.scan(tables.REQUESTS, tables.GROUP_PREFIX, stop, limit=_EVERYTHING))
        held_bytes = sum(len(key) + len(value) for key, value in found.items())
        counted = (self._counters.requests, self._counters.request_bytes)
        if counted != (len(found), held_bytes):
            yield f"requests counted {counted}, held {(len(found), held_bytes)}"
