"""A decision tallies what its batch did to tasks; a queue's row holds the queue's depth."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, spec
from tests.scopes import scope_of
from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import (
    Cancel,
    Claim,
    Decision,
    ExpireLeases,
    Operation,
    Report,
    Submit,
)
from tq_cluster.core.model.queue_moves import Tally
from tq_cluster.core.model.types import FencingToken
from tq_cluster.core.reads import queries, steps
from tq_cluster.core.reads.depths import Depth
from tq_cluster.core.reads.steps import Reader
from tq_cluster.core.rows import tables

NONE, PENDING, RUNNING = states.NONE, states.PENDING, states.RUNNING
WORK, OTHER = type_digest("work"), type_digest("other")


def submitting(*specs: task_pb2.TaskSpec, request_id: str = "r") -> Operation:
    request = task_service_pb2.SubmitRequest(request_id=request_id, tasks=specs)
    return Submit(request=request, id_seed=request_id)


def claiming(most: int) -> Operation:
    request = worker_service_pb2.ClaimRequest(worker_id="w", queues=["default"], max_tasks=most)
    return Claim(request=request)


def completing(*tasks: worker_service_pb2.ClaimedTask) -> Operation:
    request = worker_service_pb2.ReportRequest(worker_id="w")
    for task in tasks:
        report = request.reports.add(task_id=task.spec.task_id, token=task.token)
        report.complete.SetInParent()
    return Report(request=request)


def tally_of(decision: Decision) -> Tally:
    [tally] = decision.wakeups.tallies
    assert tally.queue == "default"
    return tally


def read(queue: LoneQueue) -> Reader:
    reader = Reader()
    reader.renew(queue.store.view())
    return reader


def depth(queue: LoneQueue) -> Depth:
    [found] = queries.queue_depths(scope_of(read(queue)), "", 10)
    return found


def test_a_submit_is_tallied_by_type_and_its_repetition_is_not() -> None:
    queue = LoneQueue()
    operation = submitting(spec(), spec(), spec(type="other"), spec(run_at=at(5_000)))

    first = tally_of(queue.decide(operation))
    again = queue.decide(operation)

    assert first.moves == {
        (WORK, NONE, PENDING): 2,
        (OTHER, NONE, PENDING): 1,
        (WORK, NONE, states.SCHEDULED): 1,
    }
    assert queries.task_type(scope_of(queue.store.view()), first.examples[OTHER]) == "other"
    assert again.wakeups.tallies == []


def test_a_task_is_tallied_with_how_long_it_waited_how_long_it_took_and_how_often() -> None:
    queue = LoneQueue()
    queue.submitted(spec(run_at=at(1_000)))
    queue.wait(1_250)
    queue.fail(queue.claimed()[0], retry_after_ms=2_000)
    queue.wait(2_500)

    leased = tally_of(queue.decide(claiming(1)))
    lease = next(iter(queue.leases.values()))
    queue.now_ms += 100
    task = worker_service_pb2.ClaimedTask(token=lease.token)
    task.spec.task_id = lease.task_id
    ended = tally_of(queue.decide(completing(task)))

    assert leased.waited_ms == [500]  # due again 2 s after the failure, at 3.25 s, leased at 3.75 s
    assert ended.lasted_ms == {states.COMPLETED: [3_850]}
    assert ended.attempts == [2]


def test_an_expired_lease_is_tallied_and_so_is_the_dead_letter_that_it_leads_to() -> None:
    queue = LoneQueue()
    queue.submitted(spec(max_attempts=1), spec())
    dying, again = queue.claimed(2)
    leases = [queue.leases[FencingToken(task.token)] for task in (dying, again)]

    tally = tally_of(queue.decide(ExpireLeases(leases=leases)))
    late = queue.decide(ExpireLeases(leases=leases))

    assert tally.leases_expired == 2
    assert tally.moves == {
        (WORK, RUNNING, states.FAILED): 1,
        (WORK, RUNNING, states.RETRYING): 1,
    }
    assert tally.dead_letters == {task_pb2.FAILURE_REASON_ATTEMPTS_EXHAUSTED: 1}
    assert tally.attempts == [1]
    assert late.wakeups.tallies == []


def test_a_cancelled_task_counts_in_no_histogram_of_attempts() -> None:
    queue = LoneQueue()
    (task_id,) = queue.submitted(spec())
    queue.now_ms += 10

    request = task_service_pb2.CancelTaskRequest(task_id=task_id)
    tally = tally_of(queue.decide(Cancel(request=request)))

    assert (tally.lasted_ms, tally.attempts) == ({states.CANCELLED: [10]}, [])


def test_depth_is_known_by_state_and_band_of_priorities() -> None:
    queue = LoneQueue()  # which checks the bands of every state that it reaches
    queue.submitted(
        *(spec(priority=priority) for priority in (0, 63, 64, 128, 191, 192, 255)),
        spec(priority=255, run_at=at(60_000)),
    )
    queue.now_ms += 300
    queue.complete(queue.claimed(2)[0])

    found = depth(queue)

    assert {key: count for key, count in found.unfinished.items() if count} == {
        (PENDING, 0): 2,
        (PENDING, 1): 1,
        (PENDING, 2): 2,
        (RUNNING, 3): 1,
        (states.SCHEDULED, 3): 1,
    }
    assert found.finished == {states.COMPLETED: 1, states.FAILED: 0, states.CANCELLED: 0}
    assert queue.now_ms - (found.head_due_ms or 0) == 300
    assert not found.paused


def test_a_queue_whose_bands_an_earlier_version_did_not_count_goes_on() -> None:
    queue = LoneQueue(audited=False)
    queue.submitted(spec(priority=200))
    key = tables.queue_key(tables.prefix_of(0), 1)
    row = state_pb2.QueueRow.FromString(queue.store.view().get(tables.QUEUES, key) or b"")
    row.ClearField("upper_bands_by_state")
    queue.overwrite(tables.QUEUES, key, row.SerializeToString())

    queue.claimed()

    unfinished = depth(queue).unfinished
    assert {key: count for key, count in unfinished.items() if count} == {(RUNNING, 3): 1}


def test_depths_come_in_slices_by_name() -> None:
    queue = LoneQueue()
    queue.submitted(*(spec(queue=f"q{n}") for n in range(5)))

    names = [each.queue for each in queries.queue_depths(scope_of(read(queue)), "", 2)]
    assert names == ["q0", "q1"]
    names = [each.queue for each in queries.queue_depths(scope_of(read(queue)), "q1", 9)]
    assert names == ["q2", "q3", "q4"]


def test_a_slice_of_depths_ends_where_it_has_read_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STEP_COST", 20)
    queue = LoneQueue()
    for name in ("q0", "q1", "q2", "q3"):
        queue.configure(name, ordering=queue_service_pb2.QueueSettings.ORDERING_AGING)
        queue.submitted(*(spec(queue=name, priority=n) for n in range(8)))

    slices, after = [], ""
    while depths := queries.queue_depths(scope_of(read(queue)), after, 50):
        slices.append([each.queue for each in depths])
        after = depths[-1].queue

    assert slices == [["q0"], ["q1"], ["q2"], ["q3"]]
