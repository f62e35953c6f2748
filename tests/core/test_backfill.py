"""Filling a table for tasks from before it."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, replied, spec
from tests.core.reads import counted_reads
from tq.internal.v1 import state_pb2
from tq.v1 import worker_service_pb2
from tq_cluster.core import backfill, invariants, tables
from tq_cluster.core.batch import CLUSTER_VERSION
from tq_cluster.core.operations import (
    EndLeases,
    Filled,
    FillTables,
    FormCluster,
    LeaveCluster,
    RaiseVersion,
)
from tq_cluster.core.ordering import SEARCH_ROWS_MAX

FORM_OLD = FormCluster(cluster_id="c", members={"n1": "i"}, cluster_version=2, wall_ms=0)
RAISE = RaiseVersion(cluster_version=CLUSTER_VERSION)


def old_queue(*, audited: bool = True) -> LoneQueue:
    """A cluster that decides by the version before."""
    queue = LoneQueue(version=0, audited=audited)
    queue.decide(FORM_OLD)
    return queue


def ids_of(queue: LoneQueue, most: int, *types: str) -> list[str]:
    reply = replied(queue.claim(most, types=types), worker_service_pb2.ClaimResponse)
    return [task.spec.task_id for task in reply.tasks]


def rows_by_type(queue: LoneQueue) -> int:
    view = queue.store.view()
    return len(list(view.scan(tables.READY_BY_TYPE, b"\x00", b"\xff", limit=1_000_000)))


def counters(queue: LoneQueue) -> tuple[int, int]:
    row = queue.store.view().get(tables.META, tables.COUNTERS_KEY)
    found = state_pb2.CountersRow.FromString(row or b"")
    return found.kept_version, found.filled_version


def fill(queue: LoneQueue, rows_max: int = 200) -> Filled:
    """Have one slice filled."""
    found = queue.decide(FillTables(rows_max=rows_max)).wakeups.filled
    assert found is not None
    return found


def test_below_the_version_that_brings_the_table_nothing_is_written_to_it() -> None:
    queue = old_queue()
    queue.submitted(*[spec(type="x") for _ in range(5)])
    assert rows_by_type(queue) == 0
    assert counters(queue) == (0, 0)
    assert not backfill.is_under_way(queue.store.view())
    assert not queue.changed_by(FillTables())


def test_a_cluster_that_begins_with_the_version_has_nothing_to_fill() -> None:
    queue = LoneQueue(version=0)
    queue.decide(
        FormCluster(cluster_id="c", members={"n1": "i"}, cluster_version=CLUSTER_VERSION, wall_ms=0)
    )
    assert counters(queue) == (CLUSTER_VERSION, CLUSTER_VERSION)
    queue.submitted(spec(task_id="one", type="x"))
    assert ids_of(queue, 1, "x") == ["one"]


def test_tasks_from_before_are_filled_in_slices_while_others_come_and_go() -> None:
    queue = old_queue()
    queue.submitted(*[spec(type=f"t{n % 3}", priority=n % 5) for n in range(50)])
    queue.decide(RAISE)
    assert counters(queue) == (CLUSTER_VERSION, 0)

    slices = 0
    found = Filled(0, complete=False)
    while not found.complete:
        # What is behind the place that was reached, and what is ahead of it.
        queue.submitted(spec(type="t0", priority=200), spec(type="t1"))
        (claimed,) = queue.claimed(1)
        queue.complete(claimed)
        (lowest,) = queue.claimed(1)
        queue.release(lowest)
        found = fill(queue, rows_max=7)
        slices += 1

    assert not backfill.is_under_way(queue.store.view())
    assert found.rows >= 50
    assert slices > 7
    assert counters(queue) == (CLUSTER_VERSION, CLUSTER_VERSION)
    assert rows_by_type(queue) == queue.stats().pending
    assert queue.store.view().get(tables.META, tables.BACKFILL_KEY) is None


def test_a_slice_reads_and_writes_no_more_than_it_may() -> None:
    queue = old_queue(audited=False)
    queue.submitted(*[spec() for _ in range(500)])
    queue.decide(RAISE)

    with counted_reads() as reads:
        fill(queue, rows_max=50)

    assert reads.count < 60
    assert rows_by_type(queue) == 50


def test_whoever_leads_next_goes_on_where_the_last_slice_ended() -> None:
    queue = old_queue()
    queue.submitted(*[spec() for _ in range(100)])
    queue.decide(RAISE)
    fill(queue, rows_max=30)

    # All that the next leader, or one that begins with a backup of this, knows is the state.
    successor = LoneQueue(store=queue.store)
    assert fill(successor, rows_max=30).rows == 60
    assert rows_by_type(successor) == 60


def test_a_backup_of_a_half_filled_state_is_filled_by_the_cluster_that_is_made_of_it() -> None:
    queue = old_queue()
    queue.submitted(*[spec(type="x") for _ in range(20)], spec(task_id="y", type="y"))
    queue.claimed(2)
    queue.decide(RAISE)
    fill(queue, rows_max=5)

    queue.decide(EndLeases(quarantine=False))
    queue.decide(LeaveCluster(made_at_ms=queue.now_ms))
    queue.decide(
        FormCluster(
            cluster_id="d",
            members={"n1": "j"},
            cluster_version=CLUSTER_VERSION,
            wall_ms=queue.now_ms,
        )
    )
    assert backfill.is_under_way(queue.store.view())
    while not fill(queue, rows_max=5).complete:
        pass

    assert rows_by_type(queue) == 21
    assert ids_of(queue, 2, "y") == ["y"]


def test_a_backup_from_before_the_version_is_filled_by_the_cluster_that_is_made_of_it() -> None:
    queue = old_queue()
    queue.submitted(*[spec(type="x") for _ in range(20)], spec(task_id="y", type="y"))
    queue.decide(LeaveCluster(made_at_ms=queue.now_ms))
    queue.decide(
        FormCluster(
            cluster_id="d",
            members={"n1": "j"},
            cluster_version=CLUSTER_VERSION,
            wall_ms=queue.now_ms,
        )
    )
    assert counters(queue) == (CLUSTER_VERSION, 0)
    while not fill(queue, rows_max=5).complete:
        pass
    assert ids_of(queue, 2, "y") == ["y"]


def test_a_slice_that_was_filled_already_changes_nothing_when_it_is_filled_again() -> None:
    queue = old_queue()
    queue.submitted(*[spec() for _ in range(20)])
    queue.decide(RAISE)
    fill(queue, rows_max=10)
    row = backfill.progress(queue.store.view())
    row.from_key = b""
    queue.overwrite(tables.META, tables.BACKFILL_KEY, row.SerializeToString())

    while not fill(queue, rows_max=10).complete:
        pass
    assert rows_by_type(queue) == 20


@pytest.mark.parametrize("done", [0, 10])
def test_until_all_is_filled_a_claim_by_type_looks_as_it_did_before(done: int) -> None:
    queue = old_queue(audited=False)
    queue.submitted(spec(task_id="first", type="y"))
    queue.submitted(*[spec(type="x") for _ in range(SEARCH_ROWS_MAX // 2)])
    queue.submitted(spec(task_id="second", type="y"))
    queue.submitted(*[spec(type="x") for _ in range(SEARCH_ROWS_MAX)])
    queue.submitted(spec(task_id="third", type="y"))
    queue.decide(RAISE)
    if done:
        fill(queue, rows_max=done)

    with counted_reads() as reads:
        assert ids_of(queue, 3, "y") == ["first", "second"]
    assert reads.count < SEARCH_ROWS_MAX + 50

    with counted_reads() as reads:
        assert ids_of(queue, 3, "y") == []
    assert reads.count < SEARCH_ROWS_MAX + 50

    while not fill(queue).complete:
        pass
    with counted_reads() as reads:
        assert ids_of(queue, 3, "y") == ["third"]
    assert reads.count < 20
    assert invariants.violations(queue.store.view()) == []


def test_tasks_whose_rows_say_nothing_of_their_types_get_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = old_queue()
    with monkeypatch.context() as patch:
        patch.setattr("tq_cluster.core.submits.type_digest", lambda _: 0)
        queue.submitted(spec(task_id="x1", type="x"), spec(task_id="y1", type="y"))
        queue.submitted(spec(task_id="y2", type="y", run_at=at(50)), spec(task_id="y3", type="y"))
    (held,) = queue.claimed(1)
    queue.decide(RAISE)
    # One becomes ready, one is given back, and one is gone through.
    queue.wait(60)
    queue.release(held)
    while not fill(queue, rows_max=1).complete:
        pass

    assert ids_of(queue, 5, "x") == ["x1"]
    assert ids_of(queue, 5, "y") == ["y1", "y3", "y2"]


def test_a_half_filled_table_that_lacks_a_row_behind_its_place_is_found() -> None:
    queue = old_queue()
    queue.submitted(*[spec() for _ in range(20)])
    queue.decide(RAISE)
    fill(queue, rows_max=10)
    draft = queue.store.workspace()
    key, _ = next(draft.scan(tables.READY_BY_TYPE, b"\x00", b"\xff", limit=1))
    draft.delete(tables.READY_BY_TYPE, key)
    assert invariants.violations(draft) != []
