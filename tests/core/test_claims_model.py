"""Claims of some types from several queues, against naive queues that are gone through every time.

The queues begin under the rules of the version before, which knows no index by type; it is raised,
and the index filled, at any moment between.
"""

from __future__ import annotations

import hypothesis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.core.lone_queue import START_MS, LoneQueue, instant, replied, span, spec
from tests.core.naive import NaiveQueue, NaiveTask
from tq.v1 import queue_service_pb2, worker_service_pb2
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.housekeeping import backfill
from tq_cluster.core.model.operations import FillTables, FormCluster, RaiseVersion

Settings = queue_service_pb2.QueueSettings
QUEUES = ("a", "b", "c")
TYPES = ("w", "x", "y", "z", "plumless", "buckeroo")
"""The last two have one CRC-32."""

types = st.lists(st.sampled_from(TYPES), max_size=3)
# To leave out a type leaves out all of its digest, which is said in core/kernel/ready_order.py.
distinct_types = st.lists(st.sampled_from(TYPES[:-2]), max_size=3)
plans = st.tuples(
    st.sampled_from(QUEUES),
    st.sampled_from(TYPES),
    st.sampled_from([0, 0, 1, 63, 64, 255]),
    st.sampled_from([0, 0, 0, 50]),
    st.sampled_from([None, None, None, 100]),
)


class ClaimsAgainstNaiveQueues(RuleBasedStateMachine):
    """Every move is made on both; every claim must get the same tasks in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = LoneQueue(by_type=False)
        self.queue.decide(
            FormCluster(cluster_id="c", members={"n1": "i"}, cluster_version=2, wall_ms=0)
        )
        self.naive = {name: NaiveQueue(START_MS) for name in QUEUES}
        self.submitted = 0
        self.held: list[worker_service_pb2.ClaimedTask] = []

    @rule(batch=st.lists(plans, min_size=1, max_size=6))
    def submit(self, batch: list[tuple[str, str, int, int, int | None]]) -> None:
        specs = []
        for name, task_type, priority, delay_ms, expire_ms in batch:
            self.submitted += 1
            task = NaiveTask(
                id=f"t{self.submitted}",
                priority=priority,
                due_ms=self.queue.now_ms + delay_ms,
                max_attempts=5,
                expire_ms=None if expire_ms is None else self.queue.now_ms + expire_ms,
                retention_ms=1 << 40,
                type=task_type,
            )
            assert self.naive[name].submit(task)
            task.place = self.submitted
            specs.append(
                spec(
                    queue=name,
                    type=task_type,
                    task_id=task.id,
                    priority=priority,
                    run_at=instant(task.due_ms),
                    expire_at=None if task.expire_ms is None else instant(task.expire_ms),
                )
            )
        self.queue.submitted(*specs)

    @rule(
        queues=st.lists(st.sampled_from(QUEUES), min_size=1, max_size=4),
        only=types,
        but=distinct_types,
        most=st.integers(1, 6),
    )
    def claim(self, queues: list[str], only: list[str], but: list[str], most: int) -> None:
        expected: list[tuple[NaiveQueue, NaiveTask]] = []
        for name in set(queues):
            naive = self.naive[name]
            expected += [(naive, task) for task in naive.next_up(1_000, only, but)]
        expected.sort(key=lambda found: found[0].rank(found[1]))
        taken: list[tuple[NaiveQueue, NaiveTask]] = []
        for naive, task in expected:
            # A task past its expire_at fails when the claim reaches it.
            if task.expire_ms is not None and task.expire_ms <= self.queue.now_ms:
                if len(taken) < most:
                    naive.finish(task, "FAILED", "EXPIRED")
            elif len(taken) < most:
                taken.append((naive, task))
        outcome = self.queue.claim(most, queues=queues, types=only, except_types=but)
        found = replied(outcome, worker_service_pb2.ClaimResponse).tasks
        assert [each.spec.task_id for each in found] == [task.id for _, task in taken]
        for claimed, (naive, task) in zip(found, taken, strict=True):
            naive.start(task, claimed.token)
        self.held += found

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        claimed = data.draw(st.sampled_from(self.held))
        self.held.remove(claimed)
        naive = self.naive[claimed.spec.queue]
        naive.report(claimed.spec.task_id, claimed.token, "release", 0)
        self.queue.release(claimed)

    @rule(
        name=st.sampled_from(QUEUES),
        paused=st.sampled_from([False, False, True]),
        aging_ms=st.sampled_from([None, None, 1, 40]),
    )
    def configure(self, name: str, *, paused: bool, aging_ms: int | None) -> None:
        self.naive[name].paused, self.naive[name].aging_ms = paused, aging_ms
        if aging_ms is None:
            self.queue.configure(name, paused=paused)
        else:
            aging = Settings.ORDERING_AGING
            self.queue.configure(name, paused=paused, ordering=aging, aging=span(aging_ms))

    @rule(ms=st.sampled_from([1, 30, 100]), settles=st.booleans())
    def let_time_pass(self, ms: int, *, settles: bool) -> None:
        self.queue.now_ms += ms
        for naive in self.naive.values():
            naive.now_ms += ms
        if settles:
            self.queue.make_due()
            for naive in self.naive.values():
                naive.settle()

    @rule()
    def raise_the_version(self) -> None:
        self.queue.decide(RaiseVersion(cluster_version=CLUSTER_VERSION))

    @precondition(lambda self: backfill.is_under_way(self.queue.store.view()))
    @rule(rows_max=st.sampled_from([1, 3, 100]))
    def fill(self, rows_max: int) -> None:
        self.queue.decide(FillTables(rows_max=rows_max))


ClaimsAgainstNaiveQueues.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
test_a_claim_gets_what_a_naive_one_gets = ClaimsAgainstNaiveQueues.TestCase
