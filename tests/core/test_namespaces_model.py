"""Two namespaces in one state, each against a naive queue of its own: nothing crosses.

Queue, task ids, worker and request ids are the same in both.
"""

from __future__ import annotations

from typing import Any, Final

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.core.lone_queue import LoneQueue, replied, report_of, status
from tests.core.test_model import QueueAgainstNaiveQueue
from tq.v1 import queue_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Decision, Operation
from tq_cluster.core.reads import listings
from tq_cluster.core.reads.steps import in_one_go
from tq_cluster.core.rows import tables
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.storage.rows import TABLE_COUNT

SHOP: Final = 7
OF_A_NAMESPACE: Final = ("queue", "naive", "given", "named", "submits", "claims", "purges")
"""What the model keeps of the namespace in which it moves."""
_EVERYTHING: Final = 1 << 40


class WalledQueue(LoneQueue):
    """A queue that checks that none of its decisions reaches another namespace."""

    def decide(self, *operations: Operation) -> Decision:
        before = self._others_rows()
        decision = super().decide(*operations)
        assert self._others_rows() == before
        wakeups = decision.wakeups
        named = {lease.namespace for lease in wakeups.granted}
        named |= {ready.namespace for ready in wakeups.ready}
        named |= {tally.namespace for tally in wakeups.tallies}
        named |= {event.namespace for event in wakeups.events or ()}
        named |= {namespace for namespace, _ in wakeups.finished}
        assert named <= {self.namespace}
        return decision

    def _others_rows(self) -> dict[tuple[int, bytes], bytes]:
        """The rows of all other namespaces, without those of the cluster."""
        view = self.store.view()
        return {
            (table, key): value
            for table in range(tables.META + 1, TABLE_COUNT)
            for key, value in view.scan(table, b"\x00", b"\xff", limit=_EVERYTHING)
            if tables.namespace_of(key) != self.namespace
        }


class TwoNamespaces(QueueAgainstNaiveQueue):
    """The moves of the model, by turns in the default namespace and in another."""

    def __init__(self) -> None:
        super().__init__()
        store = MemoryStore()
        self.begin(WalledQueue(store=store, tell_events=True))
        self._there = self._kept()
        self.begin(WalledQueue(store=store, tell_events=True, namespace=SHOP))

    @rule()
    def go_over(self) -> None:
        here = self._kept()
        vars(self).update(self._there)
        self._there = here

    @rule(ms=st.sampled_from([1, 30, 300, 3_000, 600_000]))
    def let_time_pass(self, ms: int) -> None:
        for namespace in (self._kept(), self._there):
            namespace["queue"].now_ms += ms
            namespace["naive"].now_ms += ms

    @precondition(lambda self: self._there["given"])
    @rule(data=st.data())
    def show_a_lease_of_the_other(self, data: st.DataObject) -> None:
        claimed = data.draw(st.sampled_from(self._there["given"]))
        assert self.queue.heartbeat(claimed) == (["LEASE_LOST"], [])
        expected, _ = self.naive.report(claimed.spec.task_id, claimed.token, "complete", 0)
        assert expected in ("LEASE_LOST", "NOT_FOUND")
        completion = worker_service_pb2.Completion(result=b"not yours")
        [result] = self.queue.report(report_of(claimed, complete=completion))
        assert status(result) == expected

    @invariant()
    def both_agree_on_every_task(self) -> None:
        for _ in range(2):
            super().both_agree_on_every_task()
            self._lists_are_of_one_namespace()
            self.go_over()
        here, there = (
            {each.token for each in kept["given"]} for kept in (self._kept(), self._there)
        )
        assert not here & there

    def _lists_are_of_one_namespace(self) -> None:
        scope = self.queue.scope()
        everything = task_service_pb2.ListTasksRequest(page_size=1_000)
        listed = replied(
            in_one_go(scope, listings.list_tasks, everything), task_service_pb2.ListTasksResponse
        )
        tasks = self.naive.tasks
        assert sorted(each.spec.task_id for each in listed.tasks) == sorted(
            each.id for each in tasks
        )
        dead = replied(
            in_one_go(
                scope,
                listings.list_dead_letters,
                queue_service_pb2.ListDeadLettersRequest(page_size=1_000),
            ),
            queue_service_pb2.ListDeadLettersResponse,
        )
        failed = [each.id for each in tasks if each.state == "FAILED"]
        assert sorted(each.spec.task_id for each in dead.tasks) == sorted(failed)
        queues = replied(
            in_one_go(scope, listings.list_queues, queue_service_pb2.ListQueuesRequest()),
            queue_service_pb2.ListQueuesResponse,
        )
        assert [each.queue for each in queues.queues] == ["default"]

    def _kept(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OF_A_NAMESPACE}


TwoNamespaces.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
test_two_namespaces_do_what_two_naive_queues_do = pytest.mark.slow(TwoNamespaces.TestCase)
