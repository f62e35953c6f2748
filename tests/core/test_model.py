"""The queue against a naive one, move by move, with the whole state checked after every move."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core.lone_queue import (
    START_MS,
    Claimed,
    LoneQueue,
    instant,
    reason,
    replied,
    report_of,
    span,
    spec,
    state_of,
    status,
)
from tests.core.naive import BACKOFF_MS, GIVE_UP_AFTER_MS, NaiveEdge, NaiveQueue, NaiveTask
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Refused

Dependency = task_pb2.Dependency
STATUS = task_pb2.DependencyStatus.Status
Settings = queue_service_pb2.QueueSettings
Choice = tuple[tuple[str, ...], tuple[str, ...]]
RETENTION_MS = 3_000
REQUEST_WINDOW_MS = 500_000

plans = st.fixed_dictionaries(
    {
        "priority": st.sampled_from([0, 0, 1, 2, 64, 255]),
        "delay_ms": st.sampled_from([0, 0, 0, 40, 400]),
        "max_attempts": st.integers(1, 3),
        "expire_in_ms": st.sampled_from([None, None, None, 50, 500]),
        "task_type": st.sampled_from(["work", "work", "play"]),
        "on": st.lists(
            st.tuples(
                st.integers(0, 9),
                st.sampled_from(["COMPLETED", "COMPLETED", "NOT_COMPLETED", "ENDED"]),
                st.sampled_from(["FAIL", "SKIP"]),
            ),
            max_size=3,
        ),
        "need": st.integers(0, 3),
    }
)
"""``on`` names tasks by how many were submitted since, beside condition and otherwise."""
choices = st.sampled_from(
    [((), ())] * 4 + [(("play",), ()), ((), ("work",)), ((), ("play",)), (("work",), ("work",))]
)
"""Which types a claim names and leaves out; mostly it takes all."""


class QueueAgainstNaiveQueue(RuleBasedStateMachine):
    """Every move is made on both; every answer and every task must be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.begin(LoneQueue())

    def begin(self, queue: LoneQueue) -> None:
        """Make all moves on this queue from here on, and on a new naive one."""
        self.queue = queue
        self.naive = NaiveQueue(START_MS)
        self.queue.configure()  # so that there are counts to compare
        self.given: list[Claimed] = []
        """Every lease ever granted, live or not."""
        self.named = 0
        self.submits: dict[str, tuple[int, list[task_pb2.TaskSpec], list[str]]] = {}
        self.claims: dict[str, tuple[int, int, Choice, list[Claimed]]] = {}
        self.purges = (0, "")
        """How many tasks had ever been submitted when the last purge began, and its page token."""

    # ---------------------------------------------------------------- moves

    @rule(batch=st.lists(plans, min_size=1, max_size=4), repeatable=st.booleans())
    def submit(self, batch: list[dict[str, Any]], *, repeatable: bool) -> None:
        specs = [self._spec(**plan) for plan in batch]
        request_id = f"submit-{self.named}" if repeatable else ""
        ids = self.queue.submitted(*specs, request_id=request_id)
        assert ids == [each.task_id for each in specs]
        if repeatable:
            self.submits[request_id] = (self.queue.now_ms, specs, ids)

    @precondition(lambda self: self.submits)
    @rule(data=st.data())
    def repeat_a_submit(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.submits)))
        first_ms, specs, ids = self.submits[request_id]
        if self.queue.now_ms - first_ms < REQUEST_WINDOW_MS:
            assert self.queue.submitted(*specs, request_id=request_id) == ids

    @precondition(lambda self: self.naive.tasks)
    @rule(data=st.data())
    def submit_an_id_that_is_taken(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.naive.tasks))
        outcome = self.queue.submit(spec(task_id=task.id))
        reply = replied(outcome, task_service_pb2.SubmitResponse)
        assert reply.results[0].HasField("error")

    @rule(most=st.integers(1, 4), choice=choices, repeatable=st.booleans())
    def claim(self, most: int, choice: Choice, *, repeatable: bool) -> None:
        request_id = f"claim-{self.named}" if repeatable else ""
        self.named += 1
        types, except_types = choice
        expected = self.naive.next_up(most, types, except_types)
        outcome = self.queue.claim(
            most, request_id=request_id, types=types, except_types=except_types
        )
        tasks = list(replied(outcome, worker_service_pb2.ClaimResponse).tasks)
        assert [each.spec.task_id for each in tasks] == [task.id for task in expected]
        for claimed, task in zip(tasks, expected, strict=True):
            assert all(claimed.token > earlier.token for earlier in self.given)
            self.naive.start(task, claimed.token)
            assert claimed.attempt == task.attempts
            self.given.append(claimed)
        if repeatable and tasks:
            self.claims[request_id] = (self.queue.now_ms, most, choice, tasks)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def repeat_a_claim(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.claims)))
        first_ms, most, (types, except_types), first = self.claims[request_id]
        if self.queue.now_ms - first_ms >= REQUEST_WINDOW_MS:
            return
        outcome = self.queue.claim(
            most, request_id=request_id, types=types, except_types=except_types
        )
        reply = replied(outcome, worker_service_pb2.ClaimResponse)
        kept = [each for each in first if self._is_live(each)]
        assert [each.token for each in reply.tasks] == [each.token for each in kept]
        lost = [each.spec.task_id for each in first if not self._is_live(each)]
        assert list(reply.lost_task_ids) == [each for each in lost if self.naive.find(each)]

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(),
        kind=st.sampled_from(["complete", "complete", "fail", "fail for good", "release", "unfit"]),
        retry_after_ms=st.sampled_from([0, 30, 300]),
    )
    def report(self, data: st.DataObject, kind: str, retry_after_ms: int) -> None:
        claimed = data.draw(st.sampled_from(self.given))
        expected = self.naive.report(claimed.spec.task_id, claimed.token, kind, retry_after_ms)
        if kind == "complete":
            report = report_of(claimed, complete=worker_service_pb2.Completion(result=b"x"))
        elif kind == "release":
            report = report_of(claimed, release=worker_service_pb2.Release())
        elif kind == "unfit":
            unfit = worker_service_pb2.Release(
                pause=span(retry_after_ms), give_up_after=span(GIVE_UP_AFTER_MS)
            )
            report = report_of(claimed, release=unfit)
        else:
            failure = worker_service_pb2.Failure(
                permanent=kind == "fail for good", retry_after=span(retry_after_ms)
            )
            report = report_of(claimed, fail=failure)
        (result,) = self.queue.report(report)
        assert status(result) == expected[0]
        if expected[1] is not None:
            assert state_of(result) == expected[1]

    @precondition(lambda self: self.queue.leases)
    @rule(data=st.data())
    def let_a_lease_expire(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.queue.leases)))
        claimed = next(each for each in self.given if each.token == token)
        task = self.naive.find(claimed.spec.task_id)
        assert task is not None
        self.naive.expire(task)
        self.queue.expire(claimed)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        listed = data.draw(st.lists(st.sampled_from(self.given), max_size=3))
        statuses, live = self.queue.heartbeat(*listed)
        assert live == [each.token for each in listed if self._is_live(each)]
        for claimed, told in zip(listed, statuses, strict=True):
            task = self.naive.find(claimed.spec.task_id)
            if not self._is_live(claimed):
                assert told == "LEASE_LOST"
            else:
                assert task is not None
                assert told == ("CANCEL_REQUESTED" if task.cancel_requested else "RENEWED")

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task_id = f"task-{data.draw(st.integers(0, self.named))}"
        expected = self.naive.cancel(task_id)
        outcome = self.queue.cancel(task_id)
        if expected is None:
            assert reason(outcome) == "NOT_FOUND"
        else:
            assert not isinstance(outcome, Refused)
            assert self.queue.state(task_id) == expected

    @rule(most=st.integers(1, 3), force=st.booleans())
    def redrive(self, most: int, *, force: bool) -> None:
        redriven = 0
        for task in self._dead()[:most]:
            by_itself = task.failure != "DEPENDENCY"
            if by_itself and self.naive.may_be_redriven(task, force=force):
                self.naive.redrive(task)
                redriven += 1
        outcome = self.queue.redrive(queue="default", max_tasks=most, force=force)
        reply = replied(outcome, queue_service_pb2.RedriveResponse)
        assert reply.redriven == redriven

    @rule(most=st.integers(1, 3))
    def delete_dead_letters(self, most: int) -> None:
        deleted = []
        for task in self._dead()[:most]:
            if not self.naive.needed(task, is_dead=True):
                self.naive.remove(task)
                deleted.append(task)
        outcome = self.queue.delete(queue="default", max_tasks=most)
        reply = replied(outcome, queue_service_pb2.DeleteDeadLettersResponse)
        assert reply.deleted == len(deleted)
        assert not any(self.queue.exists(task.id) for task in deleted)

    @rule(most=st.integers(1, 3))
    def purge(self, most: int) -> None:
        self.purges = (self.naive.submitted, "")
        self._purge_on(most)

    @rule()
    def purge_at_once(self) -> None:
        expected = self.naive.purge(self.naive.submitted, self.naive.submitted)
        outcome = self.queue.purge(at_once=True)
        assert replied(outcome, queue_service_pb2.PurgeQueueResponse).cancelled == expected

    @precondition(lambda self: self.purges[1])
    @rule(most=st.integers(1, 3))
    def purge_on(self, most: int) -> None:
        self._purge_on(most)

    @rule(paused=st.booleans(), aging_ms=st.sampled_from([None, None, 20, 5_000]))
    def configure(self, *, paused: bool, aging_ms: int | None) -> None:
        self.naive.paused, self.naive.aging_ms = paused, aging_ms
        if aging_ms is None:
            self.queue.configure(paused=paused)
        else:
            self.queue.configure(
                paused=paused, ordering=Settings.ORDERING_AGING, aging=span(aging_ms)
            )

    @rule(ms=st.sampled_from([1, 30, 300, 3_000, 600_000]))
    def let_time_pass(self, ms: int) -> None:
        self.queue.now_ms += ms
        self.naive.now_ms += ms

    # ---------------------------------------------------------------- what must hold

    @invariant()
    def both_agree_on_every_task(self) -> None:
        self.naive.tell_dependents()
        self.queue.go_on()
        self.naive.settle()
        self.queue.make_due()
        self.queue.go_on()
        self.queue.remove_retired()
        self.queue.forget_requests()
        for task in self.naive.tasks:
            seen = self.queue.task(task.id)
            failure = task_pb2.FailureReason.Name(seen.failure_reason)
            assert self.queue.state(task.id) == task.state
            assert seen.attempts_made == task.attempts
            assert seen.cancel_requested == task.cancel_requested
            assert seen.redrives == task.redrives
            assert failure.removeprefix("FAILURE_REASON_") == (task.failure or "UNSPECIFIED")
            why = task_pb2.CancelReason.Name(seen.cancel_reason)
            assert why.removeprefix("CANCEL_REASON_") == (task.why or "UNSPECIFIED")
            assert seen.ended_by in (task.ended_by, "")
            if task.state != "BLOCKED":
                continue  # what was made of others than the one that decided depends on the slices
            statuses = [STATUS.Name(each.status) for each in seen.dependencies if each.state]
            assert statuses == [
                f"STATUS_{edge.status}" for edge in task.edges if edge.parent in self.naive.tasks
            ]
        stats = self.queue.stats()
        for state in (
            "BLOCKED",
            "SCHEDULED",
            "PENDING",
            "RUNNING",
            "RETRYING",
            "COMPLETED",
            "FAILED",
        ):
            assert getattr(stats, state.lower()) == self.naive.count(state)
        assert stats.totals.submitted == self.naive.submitted
        assert stats.totals.claimed == self.naive.entries["RUNNING"]
        assert stats.totals.retried == self.naive.entries["RETRYING"]
        for state in ("COMPLETED", "FAILED", "CANCELLED"):
            assert getattr(stats.totals, state.lower()) == self.naive.entries[state]
        running = {task.token for task in self.naive.tasks if task.state == "RUNNING"}
        assert set(self.queue.leases) == running

    # ---------------------------------------------------------------- helpers

    def _purge_on(self, most: int) -> None:
        last, page_token = self.purges
        outcome = self.queue.purge(max_tasks=most, page_token=page_token)
        reply = replied(outcome, queue_service_pb2.PurgeQueueResponse)
        assert reply.cancelled == self.naive.purge(most, last)
        assert bool(reply.next_page_token) == bool(self.naive.waiting(last))
        self.purges = (last, reply.next_page_token)

    def _spec(
        self,
        priority: int,
        delay_ms: int,
        max_attempts: int,
        expire_in_ms: int | None,
        task_type: str,
        on: list[tuple[int, str, str]],
        need: int,
    ) -> task_pb2.TaskSpec:
        """A task for both queues, given to the naive one."""
        edges: dict[str, NaiveEdge] = {}
        for back, condition, otherwise in on:
            parent = self.naive.find(f"task-{self.named - back}")
            if parent is not None:
                edges.setdefault(parent.id, NaiveEdge(parent, condition, otherwise))
        self.named += 1
        need = min(need, len(edges)) or len(edges)
        now_ms = self.queue.now_ms
        task = NaiveTask(
            id=f"task-{self.named}",
            priority=priority,
            due_ms=now_ms + delay_ms,
            max_attempts=max_attempts,
            expire_ms=None if expire_in_ms is None else now_ms + expire_in_ms,
            retention_ms=RETENTION_MS,
            type=task_type,
            edges=list(edges.values()),
            need=need,
        )
        assert self.naive.submit(task)
        return spec(
            task_id=task.id,
            type=task_type,
            priority=priority,
            run_at=instant(task.due_ms),
            max_attempts=max_attempts,
            expire_at=None if task.expire_ms is None else instant(task.expire_ms),
            retention=span(RETENTION_MS),
            need=need,
            depends_on=[
                Dependency(
                    task_id=edge.parent.id,
                    condition=Dependency.Condition.Value(f"CONDITION_{edge.condition}"),
                    otherwise=Dependency.Otherwise.Value(f"OTHERWISE_{edge.otherwise}"),
                )
                for edge in task.edges
            ],
            retry_policy=task_pb2.RetryPolicy(
                initial_backoff=span(BACKOFF_MS), multiplier=2, no_jitter=True
            ),
        )

    def _dead(self) -> list[NaiveTask]:
        """The dead letters, the first to fail first."""
        dead = [task for task in self.naive.tasks if task.state == "FAILED"]
        return sorted(dead, key=lambda task: task.finished_ms)

    def _is_live(self, claimed: Claimed) -> bool:
        task = self.naive.find(claimed.spec.task_id)
        return task is not None and task.state == "RUNNING" and task.token == claimed.token


QueueAgainstNaiveQueue.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
test_the_queue_does_what_a_naive_one_does = QueueAgainstNaiveQueue.TestCase
