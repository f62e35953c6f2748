"""Filling a table for tasks from before it."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, replied, spec
from tests.core.reads import counted_reads
from tests.scopes import scope_of
from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core import invariants
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.housekeeping import backfill
from tq_cluster.core.kernel import kept_tables
from tq_cluster.core.kernel.ready_order import SEARCH_ROWS_MAX
from tq_cluster.core.model.operations import (
    Claim,
    EndLeases,
    Filled,
    FillTables,
    FormCluster,
    LeaveCluster,
    RaiseVersion,
    Submit,
)
from tq_cluster.core.rows import tables

FORM_OLD = FormCluster(cluster_id="c", members={"n1": "i"}, cluster_version=2, wall_ms=0)
RAISE = RaiseVersion(cluster_version=CLUSTER_VERSION)
BY_TYPE = [tables.READY_BY_TYPE]


def old_queue(*, audited: bool = True) -> LoneQueue:
    """A cluster that decides by the version before."""
    queue = LoneQueue(by_type=False, audited=audited)
    queue.decide(FORM_OLD)
    return queue


def ids_of(queue: LoneQueue, most: int, *types: str) -> list[str]:
    reply = replied(queue.claim(most, types=types), worker_service_pb2.ClaimResponse)
    return [task.spec.task_id for task in reply.tasks]


def rows_by_type(queue: LoneQueue) -> int:
    view = queue.store.view()
    return len(list(view.scan(tables.READY_BY_TYPE, b"\x00", b"\xff", limit=1_000_000)))


def counters(queue: LoneQueue) -> tuple[list[int], list[int]]:
    """The tables that are kept, and those that are filled."""
    row = queue.store.view().get(tables.META, tables.COUNTERS_KEY)
    found = state_pb2.CountersRow.FromString(row or b"")
    return list(found.kept_tables), list(found.filled_tables)


def begin(queue: LoneQueue) -> None:
    """Have the index by type kept from now on: by a claim that is in need of it."""
    queue.decide(RAISE)
    assert ids_of(queue, 1, "nothing is of this type") == []
    assert counters(queue) == (BY_TYPE, [])


def fill(queue: LoneQueue, rows_max: int = 200) -> Filled:
    """Have one slice filled."""
    found = queue.decide(FillTables(rows_max=rows_max)).wakeups.filled
    assert found is not None
    return found


def test_below_the_version_that_brings_the_table_nothing_is_written_to_it() -> None:
    queue = old_queue()
    queue.submitted(*[spec(type="x") for _ in range(5)])
    assert len(ids_of(queue, 1, "x")) == 1
    assert rows_by_type(queue) == 0
    assert counters(queue) == ([], [])
    assert not backfill.is_under_way(queue.store.view())
    assert not queue.changed_by(FillTables())


def new_queue() -> LoneQueue:
    """A cluster that was formed with the newest version."""
    queue = LoneQueue(by_type=False)
    queue.decide(
        FormCluster(cluster_id="c", members={"n1": "i"}, cluster_version=CLUSTER_VERSION, wall_ms=0)
    )
    return queue


def test_a_queue_whose_claims_name_no_types_pays_for_no_index() -> None:
    queue = new_queue()
    queue.submitted(*[spec(type="x") for _ in range(5)])
    (claimed,) = queue.claimed(1)
    queue.release(claimed)
    queue.configure(paused=False, ordering=queue_service_pb2.QueueSettings.ORDERING_AGING)
    assert rows_by_type(queue) == 0
    assert counters(queue) == ([], [])


def claim_of_x(queue: LoneQueue, most: int, *, but: bool) -> list[str]:
    """Claim tasks of type x: by its name, or by leaving out y."""
    outcome = queue.claim(most, except_types=["y"]) if but else queue.claim(most, types=["x"])
    reply = replied(outcome, worker_service_pb2.ClaimResponse)
    return [task.spec.task_id for task in reply.tasks]


@pytest.mark.parametrize("but", [False, True])
def test_claims_of_types_pay_for_no_index_until_one_has_to_pass_over_a_task(but: bool) -> None:
    queue = new_queue()
    assert claim_of_x(queue, 1, but=but) == []
    queue.submitted(spec(task_id="one", type="x"))
    assert claim_of_x(queue, 5, but=but) == ["one"]
    assert counters(queue) == ([], [])
    assert rows_by_type(queue) == 0

    queue.submitted(spec(type="y"), spec(task_id="two", type="x"))
    assert claim_of_x(queue, 1, but=but) == ["two"]
    assert counters(queue) == (BY_TYPE, [])
    assert fill(queue).complete
    assert rows_by_type(queue) == 1
    before = queue.store.applied
    assert claim_of_x(queue, 1, but=but) == []
    assert queue.store.applied == before, "it is kept already: nothing is written"


def test_what_came_before_the_claim_in_its_own_batch_is_filled_too() -> None:
    queue = new_queue()
    submit = Submit(
        request=task_service_pb2.SubmitRequest(tasks=[spec(task_id="one", type="y")]), id_seed="s"
    )
    claim = worker_service_pb2.ClaimRequest(
        worker_id="w", queues=["default"], types=["x"], max_tasks=1
    )
    decision = queue.decide(submit, Claim(request=claim))
    assert decision.wakeups.to_fill
    assert counters(queue) == (BY_TYPE, [])

    assert fill(queue).complete
    assert rows_by_type(queue) == 1


def test_tasks_from_before_are_filled_in_slices_while_others_come_and_go() -> None:
    queue = old_queue()
    queue.submitted(*[spec(type=f"t{n % 3}", priority=n % 5) for n in range(50)])
    begin(queue)

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
    assert counters(queue) == (BY_TYPE, BY_TYPE)
    assert rows_by_type(queue) == queue.stats().pending
    assert queue.store.view().get(tables.META, tables.BACKFILL_KEY) is None


def test_a_slice_reads_and_writes_no_more_than_it_may() -> None:
    queue = old_queue(audited=False)
    queue.submitted(*[spec() for _ in range(500)])
    begin(queue)

    with counted_reads() as reads:
        fill(queue, rows_max=50)

    assert reads.count < 60
    assert rows_by_type(queue) == 50


def test_whoever_leads_next_goes_on_where_the_last_slice_ended() -> None:
    queue = old_queue()
    queue.submitted(*[spec() for _ in range(100)])
    begin(queue)
    fill(queue, rows_max=30)

    # All that the next leader, or one that begins with a backup of this, knows is the state.
    successor = LoneQueue(store=queue.store)
    assert fill(successor, rows_max=30).rows == 60
    assert rows_by_type(successor) == 60


def test_a_backup_of_a_half_filled_state_is_filled_by_the_cluster_that_is_made_of_it() -> None:
    queue = old_queue()
    queue.submitted(*[spec(type="x") for _ in range(20)], spec(task_id="y", type="y"))
    queue.claimed(2)
    begin(queue)
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
    assert ids_of(queue, 1, "z") == []
    assert counters(queue) == (BY_TYPE, [])
    while not fill(queue, rows_max=5).complete:
        pass
    assert ids_of(queue, 2, "y") == ["y"]


def test_a_slice_that_was_filled_already_changes_nothing_when_it_is_filled_again() -> None:
    queue = old_queue()
    queue.submitted(*[spec() for _ in range(20)])
    begin(queue)
    fill(queue, rows_max=10)
    row = kept_tables.progress(queue.store.view())
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
    begin(queue)
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
    assert invariants.violations(scope_of(queue.store.view())) == []


def test_tasks_whose_rows_say_nothing_of_their_types_get_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = old_queue()
    with monkeypatch.context() as patch:
        patch.setattr("tq_cluster.core.calls.submit.type_digest", lambda _: 0)
        queue.submitted(spec(task_id="x1", type="x"), spec(task_id="y1", type="y"))
        queue.submitted(spec(task_id="y2", type="y", run_at=at(50)), spec(task_id="y3", type="y"))
    (held,) = queue.claimed(1)
    begin(queue)
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
    begin(queue)
    fill(queue, rows_max=10)
    draft = queue.store.workspace()
    key, _ = next(draft.scan(tables.READY_BY_TYPE, b"\x00", b"\xff", limit=1))
    draft.delete(tables.READY_BY_TYPE, key)
    assert invariants.violations(scope_of(draft)) != []
