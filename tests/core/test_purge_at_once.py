"""A purge of a whole queue by one call: what it covers never starts from then on."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, reason, replied, report_of, spec
from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2, worker_service_pb2
from tq_cluster.core.invariants import violations
from tq_cluster.core.kernel.continuations import INLINE_ITEMS, SLICE_ITEMS
from tq_cluster.core.model.operations import Continue, DeleteQueue, PurgeQueue, Refused, Report
from tq_cluster.core.rows import tables

MANY = 200
AGING = queue_service_pb2.QueueSettings.ORDERING_AGING


def purge(queue: LoneQueue, **more: object) -> int:
    """Purge the default queue; return how many tasks the call said it purges."""
    outcome = queue.purge(at_once=True, **more)  # type: ignore[arg-type]  # the options of purge
    return replied(outcome, queue_service_pb2.PurgeQueueResponse).cancelled


def of_many(queue: LoneQueue, many: int = MANY, **fields: object) -> list[str]:
    return queue.submitted(*[spec(**fields) for _ in range(many)])


def slices_left(queue: LoneQueue) -> int:
    """Do the purge's slices, one an entry; return how many there were."""
    slices = 0
    while queue.stats().purging:
        queue.decide(Continue(items_max=SLICE_ITEMS, caller=queue.caller))
        slices += 1
    queue.go_on()
    return slices


def test_a_purge_at_once_cancels_what_waits_and_leaves_what_runs_and_what_comes() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="running"), spec(task_id="failing"))
    running, failing = queue.claimed(2)
    queue.fail(failing, retry_after_ms=1_000)
    queue.submitted(spec(task_id="blocked", depends_on=[task_pb2.Dependency(task_id="running")]))
    queue.submitted(spec(task_id="pending"), spec(task_id="later", run_at=at(5_000)))
    queue.submitted(spec(task_id="other", queue="other"))

    assert purge(queue) == 4
    queue.submitted(spec(task_id="new"))
    queue.go_on()

    purged = ("failing", "blocked", "pending", "later")
    assert {queue.state(name) for name in purged} == {"CANCELLED"}
    assert {queue.task(name).cancel_reason for name in purged} == {task_pb2.CANCEL_REASON_REQUESTED}
    assert (queue.state("running"), queue.state("other")) == ("RUNNING", "PENDING")
    assert queue.claimed_ids(9) == ["new"]
    queue.complete(running)
    assert queue.state("running") == "COMPLETED"


def test_the_call_does_little_itself_and_slices_do_the_rest() -> None:
    queue = LoneQueue()
    of_many(queue)

    assert purge(queue) == MANY
    assert queue.stats().purging == MANY - INLINE_ITEMS
    assert queue.stats().cancelled == INLINE_ITEMS
    assert slices_left(queue) == -(-(MANY - INLINE_ITEMS) // SLICE_ITEMS)
    assert (queue.stats().cancelled, queue.stats().pending) == (MANY, 0)


@pytest.mark.parametrize("ordering", [0, AGING])
@pytest.mark.parametrize("types", [(), ("work", "rare")])
@pytest.mark.parametrize("by_type", [False, True])
def test_a_claim_finds_what_came_after_behind_all_that_is_purged(
    ordering: int, types: tuple[str, ...], by_type: bool
) -> None:
    queue = LoneQueue(by_type=by_type)
    queue.configure(ordering=ordering)
    for priority in (0, 7, 255):
        of_many(queue, MANY, priority=priority)
    purge(queue)
    left = queue.stats().purging
    queue.now_ms += 1
    queue.submitted(spec(task_id="low"), spec(task_id="high", priority=9))

    reply = replied(queue.claim(9, types=types), worker_service_pb2.ClaimResponse)

    assert [task.spec.task_id for task in reply.tasks] == ["high", "low"]
    assert queue.stats().purging == left, "it has read past them, not cancelled its way"


def test_what_comes_in_the_millisecond_of_the_purge_is_found() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="released"))
    [released] = queue.claimed()
    of_many(queue)
    purge(queue)
    queue.submitted(spec(task_id="new"))
    queue.release(released)

    assert queue.stats().purging
    assert queue.claimed_ids(9) == ["new", "released"]


def test_what_waits_again_after_the_purge_began_is_spared() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"t{n}") for n in range(5)])
    released, failing, silent, dying, kept = queue.claimed(5)
    queue.fail(dying, permanent=True)
    of_many(queue)
    purge(queue)
    queue.now_ms += 1
    queue.release(released)
    queue.fail(failing, retry_after_ms=1_000)
    queue.expire(silent)
    queue.redrive("t3")
    slices_left(queue)

    queue.wait(60_000)
    assert sorted(queue.claimed_ids(9)) == ["t0", "t1", "t2", "t3"]
    assert queue.state(kept.spec.task_id) == "RUNNING"


def test_what_is_spared_can_be_claimed_before_the_purge_has_ended() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="released"))
    [released] = queue.claimed()
    of_many(queue)
    queue.now_ms += 1
    purge(queue)
    queue.release(released)

    assert queue.stats().purging
    assert queue.claimed_ids(9) == ["released"]


def test_the_next_purge_covers_what_the_last_one_spared() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="released"))
    [released] = queue.claimed()
    of_many(queue)
    purge(queue)
    queue.release(released)
    queue.submitted(spec(task_id="new"))

    assert purge(queue) == 2
    assert queue.claimed_ids(9) == []
    slices_left(queue)
    assert {queue.state(name) for name in ("released", "new")} == {"CANCELLED"}
    assert queue.stats().cancelled == MANY + 2


def test_a_purged_task_that_expires_or_becomes_due_is_cancelled() -> None:
    queue = LoneQueue()
    of_many(queue, SLICE_ITEMS + INLINE_ITEMS, run_at=at(60_000))
    queue.submitted(spec(task_id="expires", expire_at=at(500)))
    queue.submitted(spec(task_id="due", run_at=at(500), priority=9))
    purge(queue)
    queue.wait(500)

    assert (queue.state("expires"), queue.state("due")) == ("CANCELLED", "CANCELLED")
    assert queue.stats().failed == 0
    slices_left(queue)
    assert queue.stats().cancelled == SLICE_ITEMS + INLINE_ITEMS + 2


@pytest.mark.parametrize("ends", ["complete", "fail", "cancel"])
def test_a_purged_task_whose_parent_ends_is_cancelled_whatever_its_end(ends: str) -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="parent", queue="other"))
    [parent] = queue.claimed(queues=["other"])
    of_many(queue, INLINE_ITEMS, depends_on=[task_pb2.Dependency(task_id="parent")])
    names = of_many(queue, 3, depends_on=[task_pb2.Dependency(task_id="parent")])
    skip = task_pb2.Dependency.OTHERWISE_SKIP
    edge = task_pb2.Dependency(task_id="parent", otherwise=skip)
    names += of_many(queue, 1, depends_on=[edge])
    purge(queue)
    if ends == "complete":
        queue.complete(parent)
    elif ends == "fail":
        queue.fail(parent, permanent=True)
    else:
        queue.cancel("parent")
        queue.expire(parent)
    queue.go_on()

    told = {(queue.state(name), queue.task(name).cancel_reason) for name in names}
    assert told == {("CANCELLED", task_pb2.CANCEL_REASON_REQUESTED)}
    assert {queue.task(name).ended_by for name in names} == {""}
    assert queue.claimed_ids(9) == []


def test_tasks_that_wait_for_purged_ones_are_told() -> None:
    queue = LoneQueue()
    [name, *_] = of_many(queue, 1)
    compensates = task_pb2.Dependency.CONDITION_NOT_COMPLETED
    edge = task_pb2.Dependency(task_id=name, condition=compensates)
    queue.submitted(spec(task_id="refund", queue="other", depends_on=[edge]))
    purge(queue)
    queue.go_on()

    assert queue.claimed_ids(queues=["other"]) == ["refund"]


def test_a_purge_in_the_entry_that_creates_its_queue_ends() -> None:
    queue = LoneQueue()
    queue.submitted(spec(queue="parents"))
    [task] = queue.claimed(queues=["parents"])
    children = worker_service_pb2.Completion(submit=[spec() for _ in range(INLINE_ITEMS + 1)])
    done = worker_service_pb2.ReportRequest(
        worker_id="worker", reports=[report_of(task, complete=children)]
    )
    request = queue_service_pb2.PurgeQueueRequest(queue="default", at_once=True)

    decision = queue.decide(
        Report(request=done, caller=queue.caller),
        PurgeQueue(request=request, caller=queue.caller),
    )
    queue.go_on()

    reply = replied(decision.outcomes[1], queue_service_pb2.PurgeQueueResponse)
    assert reply.cancelled == queue.stats().cancelled == INLINE_ITEMS + 1


def test_a_purge_of_nothing_changes_nothing() -> None:
    queue = LoneQueue()
    queue.configure()
    before = len(queue.entries)

    assert purge(queue) == 0
    assert len(queue.entries) == before


def test_a_purge_that_does_not_go_on_is_begun_again_by_the_next() -> None:
    queue = LoneQueue(audited=False)
    of_many(queue)
    purge(queue)
    [(turn, _)] = list(queue.store.view().scan(tables.CONTINUATIONS, b"", b"\xff", limit=2))
    queue.overwrite(tables.CONTINUATIONS, turn, state_pb2.ContinuationRow().SerializeToString())

    assert purge(queue) == 0
    queue.decide(Continue(items_max=MANY, passed_over=frozenset({1}), caller=queue.caller))

    assert queue.stats().cancelled == MANY


def test_a_repeated_purge_answers_alike_and_covers_nothing_that_came_after() -> None:
    queue = LoneQueue()
    of_many(queue)

    assert purge(queue, request_id="p") == MANY
    queue.submitted(spec(task_id="new"))
    assert purge(queue, request_id="p") == MANY
    slices_left(queue)
    assert queue.state("new") == "PENDING"
    assert reason(queue.purge(request_id="p")) == "REQUEST_ID_REUSED"


def test_a_queue_is_deleted_once_the_purge_and_retention_have_emptied_it() -> None:
    queue = LoneQueue()
    of_many(queue)
    purge(queue)
    delete = DeleteQueue(request=queue_service_pb2.DeleteQueueRequest(queue="default"))
    assert reason(queue.outcome(delete)) == "QUEUE_IN_USE"
    slices_left(queue)
    queue.now_ms += 2 * 86_400_000
    queue.remove_retired()
    queue.outcome(delete)

    # What would go on with the purge of a queue that is gone ends.
    job = state_pb2.ContinuationRow(
        kind=state_pb2.ContinuationRow.KIND_PURGE, owner=1, generation=1
    )
    key = tables.number_key(queue.scope().prefix, 1)
    queue.overwrite(tables.CONTINUATIONS, key, job.SerializeToString())
    queue.go_on()
    assert queue.store.view().get(tables.CONTINUATIONS, key) is None


def test_a_purge_at_once_takes_no_part_of_a_purge_in_slices() -> None:
    queue = LoneQueue()
    of_many(queue, 3)
    token = replied(queue.purge(max_tasks=1), queue_service_pb2.PurgeQueueResponse).next_page_token

    outcomes = (
        ("max_tasks", queue.purge(at_once=True, max_tasks=1)),
        ("max_tasks", queue.purge(stop=True, max_tasks=1)),
        ("page_token", queue.purge(at_once=True, page_token=token)),
        ("page_token", queue.purge(stop=True, page_token=token)),
        ("stop", queue.purge(at_once=True, stop=True)),
    )
    for field, outcome in outcomes:
        assert isinstance(outcome, Refused)
        assert (reason(outcome), outcome.field) == ("INVALID_ARGUMENT", field)


def test_a_purge_that_is_stopped_leaves_the_rest_as_if_it_had_never_begun() -> None:
    queue = LoneQueue()
    names = of_many(queue)
    purge(queue)
    queue.now_ms += 1
    queue.submitted(spec(task_id="new"))
    request = queue_service_pb2.PurgeQueueRequest(queue="default", stop=True, request_id="s")
    stop = PurgeQueue(request=request, caller=queue.caller)

    decision = queue.decide(stop)

    left = MANY - INLINE_ITEMS
    reply = replied(decision.outcomes[0], queue_service_pb2.PurgeQueueResponse)
    assert (reply.spared, reply.cancelled) == (left, 0)
    [ready] = decision.wakeups.ready
    assert ready.pending == left + 1, "claims that wait are woken for them"
    assert queue.outcome(stop) == decision.outcomes[0]
    queue.go_on()
    assert queue.stats().cancelled == INLINE_ITEMS
    assert queue.claimed_ids(MANY) == [*names[INLINE_ITEMS:], "new"]
    assert replied(queue.purge(stop=True), queue_service_pb2.PurgeQueueResponse).spared == 0
    assert reason(queue.purge("nobody-named-it", stop=True)) == "NOT_FOUND"


def test_the_audit_sees_a_purge_that_counts_wrong_or_is_not_gone_on_with() -> None:
    queue = LoneQueue(audited=False)
    of_many(queue)
    purge(queue)
    key = tables.queue_key(queue.scope().prefix, 1)
    good = queue.store.view().get(tables.QUEUES, key)
    assert good is not None
    assert violations(queue.scope()) == []

    row = state_pb2.QueueRow.FromString(good)
    row.purge_left += 1
    queue.overwrite(tables.QUEUES, key, row.SerializeToString())
    assert any("to purge" in fault for fault in violations(queue.scope()))

    queue.overwrite(tables.QUEUES, key, good)
    [(turn, _)] = list(queue.store.view().scan(tables.CONTINUATIONS, b"", b"\xff", limit=2))
    queue.overwrite(tables.CONTINUATIONS, turn, state_pb2.ContinuationRow().SerializeToString())
    assert any("nothing goes on" in fault for fault in violations(queue.scope()))
