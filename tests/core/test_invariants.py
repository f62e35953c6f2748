"""The invariants tell a damaged state from a healthy one."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, spec
from tests.scopes import scope_of
from tq.internal.v1 import state_pb2
from tq_cluster.core import invariants
from tq_cluster.core.model import states
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import Workspace

PREFIX = tables.prefix_of(0)


def busy_queue() -> LoneQueue:
    """A queue with something in every table."""
    queue = LoneQueue()
    queue.submitted(
        spec(task_id="completed", payload=bytes(100_000)),
        spec(task_id="failed", max_attempts=1),
        spec(task_id="running"),
        spec(task_id="pending", expire_at=at(900_000)),
        spec(task_id="scheduled", run_at=at(900_000)),
        request_id="r",
    )
    completed, failed, _ = queue.claimed(3)
    queue.complete(completed, bytes(100_000))
    queue.fail(failed)
    return queue


INDEXES = [
    tables.SPECS,
    tables.RESULTS,
    tables.QUEUE_IDS,
    tables.TASK_IDS,
    tables.PAYLOADS,
    tables.RESULT_CHUNKS,
    tables.ATTEMPTS,
    tables.BY_STATE,
    tables.LANES,
    tables.READY,
    tables.READY_BY_TYPE,
    tables.DUE,
    tables.EXPIRING,
    tables.DEAD_LETTERS,
    tables.RETIRED,
    tables.REQUESTS,
]


@pytest.mark.parametrize("table", INDEXES)
def test_a_row_that_is_missing_is_found(table: int) -> None:
    queue = busy_queue()
    workspace = queue.store.workspace()
    assert invariants.violations(scope_of(workspace)) == []
    key, _ = next(workspace.scan(table, PREFIX, b"\xff", limit=1))

    workspace.delete(table, key)

    assert invariants.violations(scope_of(workspace)) != []


@pytest.mark.parametrize("table", INDEXES)
def test_a_row_that_belongs_to_nothing_is_found(table: int) -> None:
    queue = busy_queue()
    workspace = queue.store.workspace()
    key, value = next(workspace.scan(table, PREFIX, b"\xff", limit=1, reverse=True))

    workspace.put(table, key[:-1] + bytes((key[-1] ^ 0x80,)), value)

    assert invariants.violations(scope_of(workspace)) != []


def change(workspace: Workspace, state: states.State, fields: dict[str, object]) -> None:
    """Change the row of the one task in ``state``."""
    for key, value in list(workspace.scan(tables.TASKS, PREFIX, b"\xff", limit=100)):
        row = state_pb2.TaskRow.FromString(value)
        if row.state == state:
            for name, content in fields.items():
                setattr(row, name, content)
            workspace.put(tables.TASKS, key, row.SerializeToString())


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        (states.RUNNING, {"state": states.PENDING}),
        (states.RUNNING, {"token": 5}),
        (states.RUNNING, {"attempts_made": 0}),
        (states.RUNNING, {"attempts_made": 99}),
        (states.RUNNING, {"lease_ms": 1}),
        (states.RUNNING, {"queue_id": 9}),
        (states.RUNNING, {"token": 1 << 60}),
        (states.PENDING, {"cancel_requested": True}),
        (states.PENDING, {"due_at_ms": 1}),
        (states.PENDING, {"priority": 3}),
        (states.PENDING, {"expire_at_ms": 0}),
        (states.PENDING, {"has_result": True}),
        (states.PENDING, {"state": states.ALL[0]}),
        (states.SCHEDULED, {"due_at_ms": 1}),
        (states.SCHEDULED, {"finished_at_ms": 1}),
        (states.FAILED, {"failure_reason": 0}),
        (states.FAILED, {"history_length": 2}),
        (states.FAILED, {"token": 1}),
        (states.COMPLETED, {"retire_at_ms": 1}),
        (states.COMPLETED, {"payload_chunks": 1}),
        (states.COMPLETED, {"has_result": False}),
    ],
)
def test_a_task_that_contradicts_what_is_around_it_is_found(
    state: states.State, fields: dict[str, object]
) -> None:
    queue = busy_queue()
    workspace = queue.store.workspace()
    change(workspace, state, fields)

    assert invariants.violations(scope_of(workspace)) != []


@pytest.mark.parametrize("name", ["task_number", "token", "queue_id", "requests", "request_bytes"])
def test_a_counter_that_fell_back_is_found(name: str) -> None:
    queue = busy_queue()
    workspace = queue.store.workspace()
    row = workspace.get(tables.META, tables.COUNTERS_KEY)
    counters = state_pb2.CountersRow.FromString(row or b"")
    setattr(counters, name, getattr(counters, name) - 1)

    workspace.put(tables.META, tables.COUNTERS_KEY, counters.SerializeToString())

    assert invariants.violations(scope_of(workspace)) != []


def test_two_tasks_that_had_the_same_token_are_found() -> None:
    queue = busy_queue()
    workspace = queue.store.workspace()
    key, value = next(workspace.scan(tables.ATTEMPTS, PREFIX, b"\xff", limit=1))
    attempt = state_pb2.AttemptRow.FromString(value)
    attempt.token -= 1
    workspace.put(tables.ATTEMPTS, key, attempt.SerializeToString())
    change(workspace, states.FAILED, {"token": attempt.token})

    found = invariants.violations(scope_of(workspace))

    assert any("both had token" in each for each in found), found
