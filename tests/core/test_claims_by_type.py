"""What a claim by types gets, and what it reads for that."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.core.lone_queue import LoneQueue, at, replied, spec
from tests.core.reads import counted_reads
from tq.v1 import queue_service_pb2, worker_service_pb2
from tq_cluster.core.calls.claim import EXPIRED_MAX
from tq_cluster.core.kernel.ready_order import (
    SEARCH_ROWS_MAX,
    TYPES_MERGED_MAX,
    Appetite,
    type_digest,
)
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import Claim, Outcome, Unfinished

Settings = queue_service_pb2.QueueSettings
Response = worker_service_pb2.ClaimResponse

QUEUES = [f"q{n}" for n in range(64)]
COLLIDING = ("plumless", "buckeroo")
"""Two texts of one CRC-32."""


class FirstDraw:
    """Draws the least number, always."""

    def random(self) -> float:
        return 0.0


def ids_of(outcome: Outcome) -> list[str]:
    return [each.spec.task_id for each in replied(outcome, Response).tasks]


def claim_on(
    queue: LoneQueue,
    queues: Sequence[str],
    *,
    types: Sequence[str] = (),
    but: Sequence[str] = (),
    most: int = 1,
) -> tuple[list[str], int]:
    """Claim as a leader does: until it has looked everywhere. Return ids and decisions."""
    request = worker_service_pb2.ClaimRequest(
        worker_id="w", queues=queues, types=types, except_types=but, max_tasks=most
    )
    outcome = queue.outcome(Claim(request=request))
    decisions = 1
    while isinstance(outcome, Unfinished):
        outcome = queue.outcome(Claim(request=request, queues=outcome.queues))
        decisions += 1
    return ids_of(outcome), decisions


def full_queues(ordering: Settings.Ordering.ValueType, priorities: int) -> LoneQueue:
    """64 queues with tasks of type "other" in many priorities, and one of type "wanted" each."""
    queue = LoneQueue(audited=False)
    for name in QUEUES:
        queue.configure(name, ordering=ordering)
        others = [spec(queue=name, type="other", priority=n) for n in range(priorities)]
        queue.submitted(*others, spec(queue=name, type="wanted", task_id=f"{name}-wanted"))
    return queue


@pytest.mark.slow
@pytest.mark.parametrize("ordering", [Settings.ORDERING_STRICT, Settings.ORDERING_AGING])
def test_a_claim_of_one_type_reads_nothing_of_the_others_however_many_there_are(
    ordering: Settings.Ordering.ValueType,
) -> None:
    read = {}
    for priorities in (4, 256):
        queue = full_queues(ordering, priorities)
        with counted_reads() as reads:
            assert claim_on(queue, QUEUES, types=["wanted"]) == (["q0-wanted"], 1)
        read[priorities] = reads.count
    # Two lookups a queue for its row, and its front. With aging one more: no other priority.
    assert read[4] == read[256] < 64 * 4 + 20


@pytest.mark.slow
def test_a_claim_that_leaves_out_a_type_passes_none_of_its_tasks() -> None:
    queue = full_queues(Settings.ORDERING_STRICT, 256)
    with counted_reads() as reads:
        assert claim_on(queue, QUEUES, but=["other"], most=3)[0] == [
            "q0-wanted",
            "q1-wanted",
            "q2-wanted",
        ]
    assert reads.count < 64 * 6 + 20


def test_a_claim_for_tasks_that_are_behind_many_others_finds_them_in_a_few_reads() -> None:
    queue = LoneQueue(audited=False)
    for _ in range(5):
        queue.submitted(*[spec(type="x", priority=7) for _ in range(1_000)])
    queue.submitted(*[spec(task_id=f"y{n}", type="y") for n in range(3)])

    for types, but in ((["y"], []), (["z", "y"], []), ([], ["x"])):
        with counted_reads() as reads:
            assert ids_of(queue.claim(1, types=types, except_types=but))[0].startswith("y")
        assert reads.count < 20
    with counted_reads() as reads:
        assert ids_of(queue.claim(1, types=["z"])) == []
    assert reads.count < 10


@pytest.mark.slow
def test_no_claim_reads_more_than_it_may_and_none_leaves_any_queue_out_for_ever() -> None:
    """64 queues with aging, 256 priorities of the type in each: 16,384 fronts."""
    queue = LoneQueue(audited=False, draw=random.Random(3))
    for name in QUEUES:
        queue.configure(name, ordering=Settings.ORDERING_AGING)
        queue.submitted(*[spec(queue=name, type="wanted", priority=n) for n in range(256)])

    for types in (["wanted"], []):
        queues = set()
        for _ in range(60):
            request = worker_service_pb2.ClaimRequest(
                worker_id="w", queues=QUEUES, types=types, max_tasks=1
            )
            with counted_reads() as reads:
                outcome = queue.outcome(Claim(request=request))
            assert reads.count <= SEARCH_ROWS_MAX + 64 * 5 + 20
            (task,) = replied(outcome, Response).tasks
            assert task.spec.priority >= 255 - 60, "the most urgent of its queue"
            queues.add(task.spec.queue)
        assert len(queues) > 20


def test_a_claim_reads_no_more_than_it_may_of_one_queue_either() -> None:
    """Aging, 12 types in 256 priorities: 3,072 fronts."""
    queue = LoneQueue(audited=False)
    queue.configure(ordering=Settings.ORDERING_AGING)
    types = [f"t{n}" for n in range(12)]
    for each in types:
        queue.submitted(*[spec(type=each, priority=n) for n in range(256)])

    for only, but in ((types, []), ([], ["other"])):
        with counted_reads() as reads:
            assert len(ids_of(queue.claim(1, types=only, except_types=but))) == 1
        assert reads.count <= SEARCH_ROWS_MAX + 20


def test_a_claim_that_finds_only_types_it_may_not_take_goes_on_until_it_has_looked_everywhere() -> (
    None
):
    queue = LoneQueue(audited=False, draw=FirstDraw())
    types = [f"t{n}" for n in range(64)]
    for name in QUEUES:
        queue.submitted(*[spec(queue=name, type=each) for each in types])
    queue.submitted(spec(queue="q63", type="wanted", task_id="last"))

    with counted_reads() as reads:
        found, decisions = claim_on(queue, QUEUES, but=types)
    assert found == ["last"]
    assert decisions == 5
    assert reads.count / decisions < SEARCH_ROWS_MAX + 200
    assert claim_on(queue, QUEUES, but=[*types[1:], "wanted"])[0] != []
    assert claim_on(queue, QUEUES[:-1], but=types) == ([], 5)


def test_with_very_many_types_a_claim_that_leaves_some_out_still_gets_the_most_urgent() -> None:
    queue = LoneQueue(audited=False)
    for start in range(0, 3 * SEARCH_ROWS_MAX, 1_000):
        queue.submitted(*[spec(type=f"t{start + n}") for n in range(1_000)])
    queue.submitted(*[spec(type="x", priority=9) for _ in range(50)])
    queue.submitted(spec(task_id="urgent", type="rare", priority=8))
    assert 3 * SEARCH_ROWS_MAX > TYPES_MERGED_MAX

    with counted_reads() as reads:
        assert ids_of(queue.claim(1, except_types=["x"])) == ["urgent"]
    assert reads.count < SEARCH_ROWS_MAX

    # The front is too far away: any of the others, rather than none.
    queue.submitted(*[spec(type="x", priority=9) for _ in range(SEARCH_ROWS_MAX)])
    with counted_reads() as reads:
        assert len(ids_of(queue.claim(1, except_types=["x"]))) == 1
    assert reads.count < 2 * SEARCH_ROWS_MAX


def test_two_types_of_one_digest_are_told_apart_by_their_names() -> None:
    assert type_digest(COLLIDING[0]) == type_digest(COLLIDING[1])
    queue = LoneQueue()
    for number in range(3):
        queue.submitted(*[spec(task_id=f"{each}-{number}", type=each) for each in COLLIDING])

    assert ids_of(queue.claim(2, types=[COLLIDING[1]])) == ["buckeroo-0", "buckeroo-1"]
    assert ids_of(queue.claim(9, types=[COLLIDING[0]])) == [f"plumless-{n}" for n in range(3)]
    assert ids_of(queue.claim(9)) == ["buckeroo-2"]


def test_a_claim_among_many_expired_tasks_fails_some_of_them_at_a_time_and_comes_to_the_rest() -> (
    None
):
    queue = LoneQueue(audited=False)
    queue.submitted(*[spec(expire_at=at(10), priority=1) for _ in range(350)])
    queue.submitted(spec(task_id="good"))
    queue.now_ms += 10

    request = worker_service_pb2.ClaimRequest(worker_id="w", queues=["default"], max_tasks=1_000)
    outcome = queue.outcome(Claim(request=request))
    assert isinstance(outcome, Unfinished)
    assert queue.stats().failed == EXPIRED_MAX

    assert claim_on(queue, ["default"], most=1_000) == (["good"], 3)
    assert queue.stats().failed == 350


def test_the_payloads_that_a_reply_has_no_room_for_are_not_read() -> None:
    queue = LoneQueue(audited=False, limits=Limits(reply_bytes_max=200_000))
    queue.submitted(*[spec(payload=bytes(180_000)) for _ in range(6)])

    read = {}
    for most in (1, 3):
        with counted_reads() as reads:
            assert len(queue.claimed(most)) == 1
        read[most] = reads.count
    # Of two more where they stand, and of the second its row: not its spec and its three chunks.
    assert read[3] - read[1] == 2 + 1


def test_an_appetite_knows_what_it_takes() -> None:
    a, b, c = (type_digest(each) for each in "abc")
    some, rest = Appetite(["a", "b"], ["b"]), Appetite((), ["b"])
    assert [some.takes(each) for each in (a, b, c)] == [True, False, False]
    assert [rest.takes(each) for each in (a, b, c)] == [True, False, True]
    assert (some.least_from(0), some.least_from(a), some.least_from(a + 1)) == (a, a, None)
    assert (rest.least_from(0), rest.least_from(b)) == (0, b + 1)
    assert Appetite().is_for_all
    assert not Appetite(["a"], ["a"]).is_for_all
    assert Appetite(["a"], ["a"]).least_from(0) is None
    assert Appetite(["b", "a"]) == Appetite(["a", "b", "a"])
