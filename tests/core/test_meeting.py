"""Claims that wait for what a batch makes ready are decided with it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.core.lone_queue import LoneQueue, replied, spec
from tq.v1 import task_service_pb2, worker_service_pb2
from tq_cluster.core.decide import deciding
from tq_cluster.core.kernel.budget import NO_BUDGET, Budget
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.model.operations import Claim, Decision, Operation, Outcome, Ready, Submit
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, TimestampMs

SMALL = Budget(rows_read_max=1, rows_written_max=1, bytes_max=1)


class Waiting:
    """Claims that wait, and what they were told of."""

    def __init__(self, *claims: Claim) -> None:
        self.claims = claims
        self.told: list[Ready] = []
        self.asked = 0

    def meet(self, ready: Sequence[Ready]) -> Sequence[Claim]:
        self.asked += 1
        self.told += ready
        claims, self.claims = (self.claims, ()) if ready else ((), self.claims)
        return claims


def decide(
    queue: LoneQueue, waiting: Waiting, *operations: Operation, budget: Budget = NO_BUDGET
) -> Decision:
    steps = deciding(
        operations,
        TimestampMs(queue.now_ms),
        queue.store.workspace(),
        random.Random(0),
        budget=budget,
        meet=waiting.meet,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            decision: Decision = end.value
            return decision


def submit(*types: str, **fields: object) -> Submit:
    request = task_service_pb2.SubmitRequest(tasks=[spec(type=each, **fields) for each in types])
    return Submit(request=request, id_seed=f"{types}{fields}")


def claim(worker_id: str = "w", most: int = 1) -> Claim:
    request = worker_service_pb2.ClaimRequest(
        worker_id=worker_id, queues=["default"], max_tasks=most
    )
    return Claim(request=request)


def taken(outcome: Outcome) -> list[str]:
    reply = replied(outcome, worker_service_pb2.ClaimResponse)
    return [task.spec.type for task in reply.tasks]


def ready(pending: int, **types: int) -> Ready:
    by_type = {type_digest(name): count for name, count in types.items()}
    return Ready(DEFAULT_NAMESPACE, "default", by_type, pending)


def test_their_outcomes_stand_behind_those_of_the_batch() -> None:
    waiting = Waiting(claim("w1"), claim("w2"), claim("w3"))

    decision = decide(LoneQueue(), waiting, submit("a"), submit("b", priority=1))

    assert [taken(each) for each in decision.outcomes[2:]] == [["b"], ["a"], []]
    assert decision.put_off == []
    assert waiting.told == [ready(2, a=1, b=1)]
    assert decision.wakeups.ready == [], "nothing is left for which others would be woken"
    assert len(decision.wakeups.granted) == 2


def test_they_are_told_of_what_the_claims_of_the_batch_have_left() -> None:
    waiting = Waiting(claim("w1"))

    decision = decide(LoneQueue(), waiting, submit("a", "a", "b"), claim("w2", most=2))

    assert waiting.told == [ready(1, b=1)]
    assert [taken(each) for each in decision.outcomes[1:]] == [["a", "a"], ["b"]]


def test_a_claim_of_the_batch_that_takes_an_older_task_leaves_the_wake_for_the_new_one() -> None:
    """It may have been woken for the older one, and has used up that wake."""
    queue = LoneQueue()
    queue.decide(submit("a", priority=1))
    waiting = Waiting()

    decision = decide(queue, waiting, submit("a"), claim())

    assert waiting.told == []
    assert decision.wakeups.ready == [ready(1, a=1)]


def test_no_claim_is_asked_for_if_nothing_changed_or_the_entry_is_full() -> None:
    waiting = Waiting(claim())

    decide(LoneQueue(), waiting, claim())
    full = decide(LoneQueue(), waiting, submit("a"), budget=SMALL)

    assert waiting.asked == 0
    assert [each.by_type for each in full.wakeups.ready] == [{type_digest("a"): 1}]


def test_those_that_an_entry_has_no_room_for_are_put_off() -> None:
    waiting = Waiting(*(claim(f"w{n}") for n in range(5)))
    types = ["a"] * 5
    alone = decide(LoneQueue(), Waiting(), submit(*types))
    assert len(alone.outcomes) == 1

    for rows in range(20, 200):
        room = Budget(rows_read_max=1 << 30, rows_written_max=rows, bytes_max=1 << 30)
        decision = decide(LoneQueue(), waiting, submit(*types), budget=room)
        if 1 < len(decision.outcomes) < 6:
            break
    else:
        raise AssertionError("each entry had room for all claims or for none")
    assert decision.put_off == list(range(len(decision.outcomes), 6))
    assert [taken(each) for each in decision.outcomes[1:]] == [["a"]] * (len(decision.outcomes) - 1)
