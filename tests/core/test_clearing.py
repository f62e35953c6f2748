"""Purging queues and deleting dead letters."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, reason, replied, spec
from tq.v1 import queue_service_pb2
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import PurgeQueue
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.core.rows.tables import CHUNK_BYTES

Purged = queue_service_pb2.PurgeQueueResponse
Deleted = queue_service_pb2.DeleteDeadLettersResponse


def dead(queue: LoneQueue, *task_ids: str, payload: bytes = b"") -> None:
    """Dead letters, in the order in which they failed."""
    for task_id in task_ids:
        queue.submitted(spec(task_id=task_id, payload=payload))
        queue.fail(queue.claimed()[0], permanent=True)
        queue.now_ms += 1


# ---------------------------------------------------------------- purging


def test_a_purge_cancels_what_waits_and_leaves_what_runs_and_what_has_ended() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="running"), spec(task_id="failing"), spec(task_id="done"))
    running, failing, done = queue.claimed(3)
    queue.complete(done)
    queue.fail(failing, retry_after_ms=1_000)
    queue.submitted(spec(task_id="pending"), spec(task_id="later", run_at=at(5_000)))
    queue.submitted(spec(task_id="other", queue="other"))

    reply = replied(queue.purge(), Purged)

    assert (reply.cancelled, reply.next_page_token) == (3, "")
    states = {name: queue.state(name) for name in ("pending", "later", "failing")}
    assert set(states.values()) == {"CANCELLED"}
    assert (queue.state("running"), queue.state("done")) == ("RUNNING", "COMPLETED")
    assert queue.state("other") == "PENDING"
    queue.wait(10_000)
    assert queue.claimed() == []
    queue.complete(running)
    assert queue.state("running") == "COMPLETED"


def test_a_purge_goes_on_in_slices_and_ends_though_tasks_keep_coming() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(task_id=f"old-{n}") for n in range(5)])

    cancelled: list[int] = []
    page_token = ""
    while not cancelled or page_token:
        reply = replied(queue.purge(max_tasks=2, page_token=page_token), Purged)
        cancelled.append(reply.cancelled)
        page_token = reply.next_page_token
        queue.submitted(spec(task_id=f"new-{len(cancelled)}"))

    assert cancelled == [2, 2, 1]
    assert queue.claimed_ids(9) == ["new-1", "new-2", "new-3"]


def test_a_purge_of_exactly_one_slice_says_that_it_is_the_last() -> None:
    queue = LoneQueue()
    queue.submitted(spec(), spec())

    assert replied(queue.purge(max_tasks=2), Purged).next_page_token == ""


def test_those_who_wait_for_a_purged_task_hear_that_it_was_cancelled() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    request = queue_service_pb2.PurgeQueueRequest(queue="default")

    assert queue.decide(PurgeQueue(request=request)).wakeups.finished == {
        (DEFAULT_NAMESPACE, "one")
    }


def test_a_repeated_purge_cancels_one_slice_and_answers_alike() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec() for _ in range(5)])

    first = queue.purge(max_tasks=2, request_id="p")
    again = queue.purge(max_tasks=2, request_id="p")

    assert again == first
    assert queue.stats().cancelled == 2
    assert reason(queue.purge(max_tasks=3, request_id="p")) == "REQUEST_ID_REUSED"


def test_a_purge_that_is_out_of_bounds_is_refused() -> None:
    queue = LoneQueue()
    queue.submitted(*[spec(), spec()])
    page_token = replied(queue.purge(max_tasks=1), Purged).next_page_token
    queue.submitted(spec(queue="other"))

    assert reason(queue.purge(max_tasks=1_001)) == "INVALID_ARGUMENT"
    assert reason(queue.purge("no queue at all")) == "INVALID_ARGUMENT"
    assert reason(queue.purge("nobody-named-it")) == "NOT_FOUND"
    assert reason(queue.purge("other", page_token=page_token)) == "INVALID_ARGUMENT"
    assert reason(queue.purge(page_token="made-up")) == "INVALID_ARGUMENT"
    assert reason(queue.purge(page_token=page_token[:-2])) == "INVALID_ARGUMENT"


# ---------------------------------------------------------------- deleting


def test_a_deleted_dead_letter_is_gone_and_its_id_is_free() -> None:
    queue = LoneQueue()
    dead(queue, "one", payload=b"x" * (CHUNK_BYTES + 1))

    reply = replied(queue.delete("one"), Deleted)

    assert (reply.deleted, list(reply.skipped_task_ids)) == (1, [])
    assert not queue.exists("one")
    assert queue.stats().failed == 0
    queue.submitted(spec(task_id="one"))
    assert queue.claimed_ids() == ["one"]


def test_only_dead_letters_are_deleted() -> None:
    queue = LoneQueue()
    dead(queue, "dead")
    queue.submitted(spec(task_id="alive"), spec(task_id="done"))
    queue.cancel("done")

    reply = replied(queue.delete("alive", "dead", "nobody", "done", "dead"), Deleted)

    assert reply.deleted == 1
    assert list(reply.skipped_task_ids) == ["alive", "nobody", "done", "dead"]
    assert (queue.state("alive"), queue.state("done")) == ("PENDING", "CANCELLED")


def test_a_queues_dead_letters_are_deleted_in_slices_the_first_to_fail_first() -> None:
    queue = LoneQueue()
    dead(queue, "a", "b", "c")
    queue.submitted(spec(task_id="other", queue="other"))
    queue.fail(queue.claimed(queues=["other"])[0], permanent=True)

    first = replied(queue.delete(queue="default", max_tasks=2), Deleted)
    assert (first.deleted, queue.exists("b"), queue.exists("c")) == (2, False, True)

    assert replied(queue.delete(queue="default"), Deleted).deleted == 1
    assert replied(queue.delete(queue="default"), Deleted).deleted == 0
    assert queue.exists("other")


@pytest.mark.parametrize("by", ["id", "queue"])
def test_large_dead_letters_take_more_calls(by: str) -> None:
    queue = LoneQueue(limits=Limits(delete_rows_max=8))
    dead(queue, "a", "b", "c", payload=b"x" * (3 * CHUNK_BYTES))
    names = ["a", "b", "c"]

    deleted = []
    while names:
        chosen = queue.delete(*names) if by == "id" else queue.delete(queue="default")
        reply = replied(chosen, Deleted)
        deleted.append(reply.deleted)
        names = list(reply.remaining_task_ids) if by == "id" else names[reply.deleted :]

    assert deleted == [1, 1, 1]
    assert queue.stats().failed == 0


def test_a_repeated_deletion_answers_alike_and_deletes_nothing_that_came_after() -> None:
    queue = LoneQueue(limits=Limits(delete_rows_max=8))
    dead(queue, "a", "b", payload=b"x" * (3 * CHUNK_BYTES))

    first = queue.delete("nobody", "a", "b", request_id="d")
    dead(queue, "a")
    again = queue.delete("nobody", "a", "b", request_id="d")

    assert again == first
    assert list(replied(first, Deleted).skipped_task_ids) == ["nobody"]
    assert list(replied(first, Deleted).remaining_task_ids) == ["b"]
    assert queue.exists("a")


def test_a_deletion_of_a_queues_dead_letters_is_of_those_that_were_there_when_it_began() -> None:
    queue = LoneQueue()
    dead(queue, "a", "b", "c")

    first = replied(queue.delete(queue="default", max_tasks=2), Deleted)
    queue.now_ms += 1
    dead(queue, "later")
    page_token = first.next_page_token
    last = replied(queue.delete(queue="default", page_token=page_token), Deleted)

    assert (first.deleted, last.deleted, last.next_page_token) == (2, 1, "")
    assert queue.state("later") == "FAILED"


def test_a_deletion_that_does_not_say_what_or_too_much_is_refused() -> None:
    queue = LoneQueue()

    assert reason(queue.delete()) == "INVALID_ARGUMENT"
    assert reason(queue.delete("a", queue="q")) == "INVALID_ARGUMENT"
    assert reason(queue.delete(*["a"] * 1_001)) == "INVALID_ARGUMENT"
    assert reason(queue.delete(queue="q", max_tasks=1_001)) == "INVALID_ARGUMENT"
    assert reason(queue.delete(queue="nobody-named-it")) == "NOT_FOUND"
