"""Deciding itself: batches, determinism, the first entry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.lone_queue import LoneQueue, at, replied, span, spec
from tests.core.story import digest_of_a_story
from tests.scopes import scope_of
from tq.v1 import (
    queue_service_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_cluster.core.invariants import violations
from tq_cluster.core.model.operations import (
    Caller,
    Cancel,
    Claim,
    ConfigureQueue,
    DeleteDeadLetters,
    Done,
    ExpireLeases,
    ForgetRequests,
    FormCluster,
    MakeDue,
    Operation,
    PurgeQueue,
    Redrive,
    Refused,
    RemoveRetired,
    Report,
    Submit,
)
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, TaskId
from tq_cluster.core.reads import queries
from tq_cluster.core.reads.steps import in_one_go
from tq_cluster.core.rows.scope import Scope
from tq_cluster.storage.drafts import Draft
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.storage.store import Store


def test_the_members_of_a_cluster_are_written_down_once() -> None:
    queue = LoneQueue()
    view = queue.store.view
    assert queries.membership(view()) is None
    assert queries.cluster_version(view()) == 0
    members = {"n2": "inc-2", "n1": "inc-1"}

    form = FormCluster(cluster_id="c-1", members=members, cluster_version=1, wall_ms=0)

    assert queue.outcome(form) == Done(more=False)
    assert queries.membership(view()) == ("c-1", members)
    assert queries.cluster_version(view()) == 1
    assert not queue.changed_by(form), "asked for again it is done already"
    other = queue.outcome(
        FormCluster(cluster_id="c-2", members=members, cluster_version=1, wall_ms=0)
    )
    assert isinstance(other, Refused)
    assert queries.membership(view()) == ("c-1", members)


def test_outcomes_come_in_the_order_of_the_operations_whatever_was_decided_first() -> None:
    queue = LoneQueue()
    claim = Claim(
        request=worker_service_pb2.ClaimRequest(worker_id="w", queues=["default"], max_tasks=5)
    )
    submit = Submit(request=task_service_pb2.SubmitRequest(tasks=[spec()]), id_seed="s")
    refused = Cancel(request=task_service_pb2.CancelTaskRequest(task_id="nobody"))

    outcomes = queue.decide(claim, refused, submit, MakeDue()).outcomes

    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Replied",
        "Refused",
        "Replied",
        "Done",
    ]
    assert len(replied(outcomes[0], worker_service_pb2.ClaimResponse).tasks) == 1


def test_namespaces_do_not_see_one_another() -> None:
    queue = LoneQueue(audited=False)
    other = Caller(namespace=7)
    queue.submit(spec(task_id="one"), request_id="r")
    queue.submit(spec(task_id="one"), request_id="r", caller=other)

    view = queue.store.view()
    request = queue_service_pb2.GetQueueStatsRequest(queue="default")
    for namespace in (0, 7):
        found = in_one_go(Scope.of(view, namespace), queries.queue_stats, request)
        stats = replied(found, queue_service_pb2.GetQueueStatsResponse).stats
        assert stats.pending == 1
    missing = in_one_go(Scope.of(view, 8), queries.queue_stats, request)
    assert isinstance(missing, Refused)


# ---------------------------------------------------------------- a batch is its operations

moves = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 3), st.integers(0, 2)),
        st.tuples(st.just("claim"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("report"), st.integers(0, 9), st.integers(0, 2)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("expire"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("redrive"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("delete"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("purge"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("due"), st.just(0), st.just(0)),
        st.tuples(st.just("pause"), st.integers(0, 1), st.just(0)),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches=st.lists(moves, min_size=1, max_size=5))
def test_a_batch_leads_to_what_its_operations_lead_to_one_by_one(
    batches: list[list[tuple[str, int, int]]],
) -> None:
    together, singly = LoneQueue(audited=False), LoneQueue()
    given_leases: list[tuple[str, int]] = []
    for place, batch in enumerate(batches):
        operations = sorted(
            (
                operation_of(move, f"{place}-{item}", given_leases, singly)
                for item, move in enumerate(batch)
            ),
            key=lambda operation: operation.order,
        )
        decided = together.decide(*operations)
        outcomes = [singly.outcome(operation) for operation in operations]
        assert decided.outcomes == outcomes
        given_leases = [(lease.task_id, lease.token) for lease in singly.leases.values()]
        together.now_ms += 7_000
        singly.now_ms += 7_000
    assert contents(together.store) == contents(singly.store)


def operation_of(
    move: tuple[str, int, int], name: str, leases: list[tuple[str, int]], queue: LoneQueue
) -> Operation:
    """Turn a move into an operation on leases and tasks that may exist."""
    kind, one, two = move
    task_id, token = leases[one % len(leases)] if leases else ("nobody", 1)
    if kind == "submit":
        tasks = [spec(priority=two, max_attempts=2, run_at=at(one * 9_000))] * one
        return Submit(request=task_service_pb2.SubmitRequest(tasks=tasks), id_seed=name)
    if kind == "claim":
        return Claim(
            request=worker_service_pb2.ClaimRequest(
                worker_id="w", queues=["default"], max_tasks=one, request_id=name
            )
        )
    if kind == "report":
        report = worker_service_pb2.TaskReport(task_id=task_id, token=token)
        if two == 0:
            report.complete.result = b"done"
        elif two == 1:
            report.fail.error = "broke"
        elif one % 2:
            report.release.SetInParent()
        else:
            report.release.pause.FromSeconds(two)
            report.release.give_up_after.FromSeconds(1)
        return Report(request=worker_service_pb2.ReportRequest(reports=[report]))
    if kind == "cancel":
        return Cancel(request=task_service_pb2.CancelTaskRequest(task_id=task_id))
    if kind == "expire":
        live = list(queue.leases.values())
        return ExpireLeases(leases=live[one : one + 2])
    if kind == "redrive":
        request = queue_service_pb2.RedriveRequest(queue="default", max_tasks=one)
        return Redrive(request=request)
    if kind == "delete":
        return DeleteDeadLetters(
            request=queue_service_pb2.DeleteDeadLettersRequest(queue="default", max_tasks=one)
        )
    if kind == "purge":
        return PurgeQueue(
            request=queue_service_pb2.PurgeQueueRequest(queue="default", max_tasks=one)
        )
    if kind == "pause":
        pause = queue_service_pb2.QueueSettings(paused=bool(one))
        return ConfigureQueue(
            request=queue_service_pb2.ConfigureQueueRequest(queue="default", settings=pause)
        )
    return MakeDue()


def contents(store: MemoryStore | Store) -> dict[int, list[tuple[bytes, bytes]]]:
    """Everything in a store."""
    view = store.view()
    return {
        table: list(view.scan(table, b"\x00", b"\xff", limit=1 << 30)) for table in range(1, 30)
    }


# ---------------------------------------------------------------- determinism and refusals


def test_the_same_operations_lead_to_the_same_entries_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-m", "tests.core.story"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }

    assert digests == {digest_of_a_story() + "\n"}


def test_the_same_operations_lead_to_the_same_entries_over_a_disk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    try:
        assert digest_of_a_story(store) == digest_of_a_story()
        assert violations(scope_of(store.view())) == []
    finally:
        store.close()


REFUSED: dict[str, Operation] = {
    "submit": Submit(
        request=task_service_pb2.SubmitRequest(request_id="new", tasks=[spec(priority=999)]),
        id_seed="s",
    ),
    "a submit of no tasks": Submit(
        request=task_service_pb2.SubmitRequest(request_id="new"), id_seed="s"
    ),
    "a submit under a used request id": Submit(
        request=task_service_pb2.SubmitRequest(request_id="used", tasks=[spec()]), id_seed="s"
    ),
    "a late submit": Submit(
        request=task_service_pb2.SubmitRequest(
            request_id="late", retry_age=span(599_000), tasks=[spec()]
        ),
        id_seed="s",
    ),
    "a claim": Claim(request=worker_service_pb2.ClaimRequest(worker_id="w", max_tasks=1)),
    "a report": Report(
        request=worker_service_pb2.ReportRequest(
            reports=[worker_service_pb2.TaskReport(task_id="running", token=1)]
        )
    ),
    "a cancel": Cancel(request=task_service_pb2.CancelTaskRequest(task_id="nobody")),
    "a redrive": Redrive(
        request=queue_service_pb2.RedriveRequest(task_ids=["running"], request_id="new")
    ),
    "a deletion": DeleteDeadLetters(
        request=queue_service_pb2.DeleteDeadLettersRequest(task_ids=["running"], request_id="new")
    ),
    "a purge": PurgeQueue(
        request=queue_service_pb2.PurgeQueueRequest(queue="default", request_id="new")
    ),
    "settings": ConfigureQueue(
        request=queue_service_pb2.ConfigureQueueRequest(
            queue="new", settings=queue_service_pb2.QueueSettings(aging=span(0))
        )
    ),
    "an expiry": ExpireLeases(leases=[]),
    "due times": MakeDue(),
    "retention": RemoveRetired(),
    "what is remembered of calls": ForgetRequests(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_or_finds_nothing_to_do_leaves_no_change(case: str) -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="running"), request_id="used")
    queue.claim()

    with written_to(queue) as changes:
        queue.decide(REFUSED[case])

    assert changes == []


@contextmanager
def written_to(queue: LoneQueue) -> Iterator[list[str]]:
    """Collect every put and delete, even if it changes nothing in the end."""
    changes: list[str] = []

    class Watched(Draft):
        def put(self, table: int, key: bytes, value: bytes) -> None:
            changes.append(f"put {table} {key.hex()}")
            super().put(table, key, value)

        def delete(self, table: int, key: bytes) -> None:
            changes.append(f"delete {table} {key.hex()}")
            super().delete(table, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tq_cluster.storage.memory.Draft", Watched)
        yield changes


def test_a_terminal_state_is_told_to_those_who_wait_for_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    (claimed,) = queue.claimed()
    report = worker_service_pb2.TaskReport(
        task_id="one", token=claimed.token, complete=worker_service_pb2.Completion()
    )
    request = worker_service_pb2.ReportRequest(reports=[report])

    wakeups = queue.decide(Report(request=request)).wakeups

    assert wakeups.finished == {(DEFAULT_NAMESPACE, "one")}
    assert queries.look_ahead(scope_of(queue.store.view()), TaskId("one")) == (
        True,
        0,
    )


def test_whether_a_task_is_finished_counts_one_that_is_gone() -> None:
    queue = LoneQueue()
    (task_id,) = queue.submitted(spec())

    assert queries.look_ahead(scope_of(queue.store.view()), TaskId(task_id)) == (
        False,
        0,
    )
    assert queries.look_ahead(scope_of(queue.store.view()), TaskId("nobody")) == (True, 0)
