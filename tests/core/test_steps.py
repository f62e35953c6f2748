"""A batch is decided in small steps, and an entry has an end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.core.lone_queue import LoneQueue, replied, report_of, spec
from tq.v1 import errors_pb2, queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.decide import deciding
from tq_cluster.core.kernel.budget import NO_BUDGET, Budget
from tq_cluster.core.model.limits import DAY_MS, DEFAULT_LIMITS
from tq_cluster.core.model.operations import (
    Claim,
    Continue,
    Decision,
    DeleteDeadLetters,
    Operation,
    PurgeQueue,
    Redrive,
    RemoveRetired,
    Report,
    Submit,
    SubmitTogether,
)
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.storage.drafts import Draft

STEP_ROWS_MAX = 1_100
"""No step of any call reads and writes more.

The keys of 1,000 tasks in a row take 2 ms, and are as much as any step reads.
"""
STEP_WRITES_MAX = 20
"""The same of what a step writes, which is dearer."""
Status = worker_service_pb2.ReportResult.Status


def submit(count: int, **fields: object) -> Submit:
    request = task_service_pb2.SubmitRequest(tasks=[spec(**fields) for _ in range(count)])
    return Submit(request=request, id_seed=f"s{count}{fields}")


def claimed(queue: LoneQueue, count: int) -> list[worker_service_pb2.ClaimedTask]:
    queue.decide(submit(count))
    return queue.claimed(count)


def completions(
    tasks: Sequence[worker_service_pb2.ClaimedTask], children: int, payload: bytes = b""
) -> Report:
    completion = worker_service_pb2.Completion(
        submit=[spec(queue="children", payload=payload) for _ in range(children)]
    )
    reports = [report_of(task, complete=completion) for task in tasks]
    return Report(request=worker_service_pb2.ReportRequest(worker_id="w", reports=reports))


def filled(queue: LoneQueue) -> Operation:
    return submit(1_000)


def of_new_queues(queue: LoneQueue) -> Operation:
    tasks = [spec(queue=f"q{number}") for number in range(1_000)]
    return Submit(request=task_service_pb2.SubmitRequest(tasks=tasks), id_seed="s")


def of_many_queues(queue: LoneQueue) -> Operation:
    for number in range(64):
        aging = queue_service_pb2.QueueSettings.ORDERING_AGING
        queue.configure(f"q{number}", ordering=aging)
        tasks = [spec(queue=f"q{number}", priority=priority) for priority in range(0, 256, 8)]
        queue.submitted(*tasks)
    request = worker_service_pb2.ClaimRequest(
        worker_id="w", queues=[f"q{number}" for number in range(64)], max_tasks=1_000
    )
    return Claim(request=request)


def with_held_tasks(queue: LoneQueue) -> Operation:
    return completions(claimed(queue, 1_000), 10)


def with_a_whole_family(queue: LoneQueue) -> Operation:
    return completions(claimed(queue, 1), 100)


def with_waiting_tasks(queue: LoneQueue) -> Operation:
    queue.decide(submit(1_000))
    return PurgeQueue(request=queue_service_pb2.PurgeQueueRequest(queue="default", max_tasks=1_000))


def dead(queue: LoneQueue, **fields: object) -> None:
    queue.decide(submit(1_000, **fields))
    failure = worker_service_pb2.Failure(error="no", permanent=True)
    queue.report(*[report_of(task, fail=failure) for task in queue.claimed(1_000)])


def with_dead_letters(queue: LoneQueue) -> Operation:
    dead(queue)
    return Redrive(request=queue_service_pb2.RedriveRequest(queue="default"))


def with_old_dead_letters(queue: LoneQueue) -> Operation:
    dead(queue)
    return DeleteDeadLetters(
        request=queue_service_pb2.DeleteDeadLettersRequest(queue="default", max_tasks=1_000)
    )


def with_ready_tasks(queue: LoneQueue) -> Operation:
    queue.decide(submit(1_000))
    return Claim(
        request=worker_service_pb2.ClaimRequest(worker_id="w", queues=["default"], max_tasks=1_000)
    )


def waiting_for(*items: int, **fields: object) -> task_pb2.TaskSpec:
    return spec(depends_on=[task_pb2.Dependency(item=item) for item in items], **fields)


def with_a_graph(queue: LoneQueue) -> Operation:
    tasks = [waiting_for(*range(max(0, item - 10), item)) for item in range(1_000)]
    request = task_service_pb2.SubmitTogetherRequest(tasks=tasks)
    return SubmitTogether(request=request, id_seed="s")


def with_a_circle(queue: LoneQueue) -> Operation:
    tasks = [waiting_for((item + 1) % 1_000) for item in range(1_000)]
    request = task_service_pb2.SubmitTogetherRequest(tasks=tasks)
    return SubmitTogether(request=request, id_seed="s")


def on_all(names: Sequence[str]) -> list[task_pb2.Dependency]:
    return [task_pb2.Dependency(task_id=name) for name in names]


def with_many_dependencies(queue: LoneQueue) -> Operation:
    names = [task.spec.task_id for task in claimed(queue, 1_000)]
    tasks = [spec(depends_on=on_all(names)) for _ in range(10)]
    return Submit(request=task_service_pb2.SubmitRequest(tasks=tasks), id_seed="s")


def with_tasks_that_others_wait_for(queue: LoneQueue) -> Operation:
    tasks = claimed(queue, 1_000)
    for task in tasks:
        queue.submitted(*[spec(queue="next", depends_on=on_all([task.spec.task_id]))] * 2)
    return completions(tasks, 0)


def with_much_to_go_on_with(queue: LoneQueue) -> Operation:
    queue.decide(with_tasks_that_others_wait_for(queue))
    return Continue(items_max=1_000)


def with_a_purge_to_go_on_with(queue: LoneQueue) -> Operation:
    queue.submitted(*[spec() for _ in range(1_000)])
    queue.purge(at_once=True)
    return Continue(items_max=1_000)


def with_dead_letters_that_a_filter_passes_over(queue: LoneQueue) -> Operation:
    for task in claimed(queue, 1_000):
        queue.fail(task, "e" * 1_000, permanent=True)
    chosen = queue_service_pb2.DeadLetterFilter(type="work", error="no such error")
    return Redrive(request=queue_service_pb2.RedriveRequest(queue="default", filter=chosen))


def with_a_failure_to_take_back(queue: LoneQueue) -> Operation:
    """A task waits for 1,000 others: one of them fails, and is redriven."""
    tasks = claimed(queue, 1_000)
    names = [task.spec.task_id for task in tasks]
    queue.submitted(spec(depends_on=on_all(names)))
    queue.fail(tasks[0], permanent=True)
    request = queue_service_pb2.RedriveRequest(task_ids=names[:1])
    return Redrive(request=request)


def with_tasks_that_failed_with_another(queue: LoneQueue) -> Operation:
    [task] = claimed(queue, 1)
    specs = [spec(depends_on=on_all([task.spec.task_id])) for _ in range(1_000)]
    names = queue.submitted(*specs)
    queue.fail(task, permanent=True)
    queue.go_on()
    return Redrive(request=queue_service_pb2.RedriveRequest(task_ids=names))


def with_retired_tasks(queue: LoneQueue) -> Operation:
    names = queue.submitted(*[spec() for _ in range(1_000)])
    queue.submitted(spec(depends_on=on_all(names)))
    queue.purge(max_tasks=1_000)
    queue.go_on()
    queue.now_ms += 2 * DAY_MS
    return RemoveRetired(rows_max=100_000)


def steps_of(
    queue: LoneQueue, *operations: Operation, budget: Budget = NO_BUDGET, first: int = 0
) -> Iterator[tuple[Draft, Decision | None]]:
    draft = queue.store.workspace()
    steps = deciding(
        operations,
        TimestampMs(queue.now_ms),
        draft,
        random.Random(0),
        budget=budget,
        first=first,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            yield draft, end.value
            return
        yield draft, None


@pytest.mark.parametrize(
    "prepare",
    [
        filled,
        of_new_queues,
        of_many_queues,
        with_held_tasks,
        with_a_whole_family,
        with_waiting_tasks,
        with_dead_letters,
        with_old_dead_letters,
        with_ready_tasks,
        with_a_graph,
        with_a_circle,
        with_many_dependencies,
        with_tasks_that_others_wait_for,
        with_much_to_go_on_with,
        with_a_failure_to_take_back,
        with_a_purge_to_go_on_with,
        with_dead_letters_that_a_filter_passes_over,
        with_tasks_that_failed_with_another,
        with_retired_tasks,
    ],
)
def test_no_step_of_the_largest_legal_call_is_long(
    prepare: Callable[[LoneQueue], Operation],
) -> None:
    queue = LoneQueue(audited=False)
    operation = prepare(queue)

    before = written = 0
    for draft, _ in steps_of(queue, operation):
        rows = draft.rows_read + draft.rows_written
        assert rows - before <= STEP_ROWS_MAX
        assert draft.rows_written - written <= STEP_WRITES_MAX
        before, written = rows, draft.rows_written


def test_what_is_decided_in_steps_is_what_is_decided_at_once() -> None:
    queue = LoneQueue()
    tasks = claimed(queue, 20)
    batch: list[Operation] = [submit(30), completions(tasks, 3), with_ready_tasks(queue)]

    for draft, decision in steps_of(queue, *batch):  # noqa: B007 - the last one counts
        assert queue.store.view().get(0, b"nothing") is None
    in_steps = draft.tables()
    queue.decide(*batch)

    assert decision is not None
    assert len(decision.outcomes) == 3
    assert decision.put_off == []
    entry = queue.entries[-1]
    assert all(table.SerializeToString() in entry for table in in_steps)


def budget(*, read: int = 1 << 40, written: int = 1 << 40, bytes_: int = 1 << 40) -> Budget:
    return Budget(rows_read_max=read, rows_written_max=written, bytes_max=bytes_)


@pytest.mark.parametrize(
    "spent", [budget(read=20), budget(written=100), budget(bytes_=20 * 250)], ids=str
)
def test_an_entry_is_full_once_its_rows_or_bytes_are_spent(spent: Budget) -> None:
    queue = LoneQueue()
    batch = [submit(10, payload=bytes(100), priority=n) for n in range(6)]

    (*_, (draft, decision)) = steps_of(queue, *batch, budget=spent)

    assert decision is not None
    assert 1 < len(decision.outcomes) < 5
    assert decision.put_off == list(range(len(decision.outcomes), 6))
    one_more = 10 * 10
    assert draft.rows_written <= spent.rows_written_max + one_more


def test_an_operation_larger_than_an_entry_goes_alone_and_whole() -> None:
    queue = LoneQueue()

    (*_, (_, decision)) = steps_of(
        queue, submit(300), submit(1, priority=1), budget=budget(written=100)
    )

    assert decision is not None
    (outcome,) = decision.outcomes
    assert len(replied(outcome, task_service_pb2.SubmitResponse).results) == 300
    assert decision.put_off == [1]


def test_what_was_put_off_is_decided_before_what_came_since() -> None:
    queue = LoneQueue()
    tasks = claimed(queue, 50)
    queue.decide(submit(1))
    claim = Claim(
        request=worker_service_pb2.ClaimRequest(worker_id="w", queues=["default"], max_tasks=1)
    )
    batch: list[Operation] = [completions(tasks[:25], 0), claim, completions(tasks[25:], 0)]
    kinds_in_turn = budget(written=25)

    (*_, (_, last_to_come)) = steps_of(queue, *batch, budget=kinds_in_turn)
    (*_, (_, first)) = steps_of(queue, batch[1], *batch[::2], budget=kinds_in_turn, first=1)

    assert last_to_come is not None
    assert first is not None
    assert last_to_come.put_off == [1, 2], "reports come before claims"
    assert first.put_off == [2], "but not before those that were put off for reports"


def test_claims_that_were_put_off_take_turns_with_all_that_is_no_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a submit does not wait for hundreds of claims that look long and find nothing."""
    monkeypatch.setattr("tq_cluster.core.decide.TURN_OPERATIONS", 2)
    queue = LoneQueue()
    claims = [
        Claim(
            request=worker_service_pb2.ClaimRequest(
                worker_id=f"w{n}", queues=["none"], max_tasks=1, request_id=f"claim {n}"
            )
        )
        for n in range(8)
    ]
    batch: list[Operation] = [*claims[:6], submit(1), *claims[6:], submit(1), submit(1, priority=1)]

    order: list[int] = []
    for rows in range(200):  # each budget reaches as many operations as the last one, or one more
        (*_, (_, decision)) = steps_of(queue, *batch, budget=budget(read=rows), first=7)
        assert decision is not None
        order += set(range(len(batch))) - {*decision.put_off, *order}

    assert order == [0, 6, 9, 1, 10, 2, 3, 4, 5, 7, 8]


# ---------------------------------------------------------------- what one report creates


def statuses(queue: LoneQueue, report: Report) -> list[worker_service_pb2.ReportResult]:
    outcome = queue.outcome(report)
    return list(replied(outcome, worker_service_pb2.ReportResponse).results)


def test_a_report_creates_no_more_than_a_submit_and_refuses_the_items_beyond() -> None:
    queue = LoneQueue()
    tasks = claimed(queue, 15)

    results = statuses(queue, completions(tasks, 100))

    assert [each.status for each in results] == [Status.STATUS_RECORDED] * 10 + [
        Status.STATUS_REFUSED
    ] * 5
    error = results[10].error
    assert error.reason == errors_pb2.ERROR_REASON_CALL_FULL
    assert error.field == "complete.submit"
    assert error.metadata["limit"] == "1000"
    assert "100 tasks, and 0 of 1000 tasks" in error.message
    assert results[10].submitted_task_ids == []
    # What was refused changed nothing: its lease stands, and another call takes it.
    again = statuses(queue, completions(tasks[10:], 100))
    assert {each.status for each in again} == {Status.STATUS_RECORDED}


def test_an_item_with_fewer_tasks_still_finds_room() -> None:
    queue = LoneQueue()
    tasks = claimed(queue, 13)
    request = worker_service_pb2.ReportRequest(worker_id="w")
    for part, children in (
        (tasks[:9], 100),
        (tasks[9:10], 60),
        (tasks[10:12], 50),
        (tasks[12:], 40),
    ):
        request.reports.extend(completions(part, children).request.reports)

    results = statuses(queue, Report(request=request))

    assert [each.status == Status.STATUS_RECORDED for each in results] == [True] * 10 + [
        False,
        False,
        True,
    ]


def test_the_bytes_of_what_a_report_creates_are_bounded_as_well() -> None:
    queue = LoneQueue()
    tasks = claimed(queue, 6)
    most = DEFAULT_LIMITS.report_submit_bytes_max

    results = statuses(queue, completions(tasks, 1, payload=bytes(most // 4 - 100)))

    assert [each.status for each in results] == [Status.STATUS_RECORDED] * 4 + [
        Status.STATUS_REFUSED
    ] * 2
    assert results[4].error.reason == errors_pb2.ERROR_REASON_CALL_FULL
    assert results[4].error.metadata["limit"] == str(most)


def test_one_completion_beyond_what_any_report_may_create_is_refused_with_the_limit() -> None:
    queue = LoneQueue()
    (task,) = claimed(queue, 1)
    most = DEFAULT_LIMITS.report_submit_bytes_max

    (result,) = statuses(queue, completions([task], 2, payload=bytes(most // 2)))

    assert result.status == Status.STATUS_REFUSED
    assert result.error.reason == errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE
    assert result.error.field == "complete.submit"
    assert result.error.metadata["limit"] == str(most)
    assert int(result.error.metadata["actual"]) > most


def test_no_more_children_are_looked_at_than_may_be_created() -> None:
    """The last child of each family is at fault, so nothing is created, and all would be read."""
    queue = LoneQueue(audited=False)
    report = completions(claimed(queue, 1_000), 100)
    for each in report.request.reports:
        each.complete.submit[99].queue = "no such name"

    (*_, (draft, decision)) = steps_of(queue, report)

    assert draft.rows_read < 4 * 1_000
    assert decision is not None
    results = replied(decision.outcomes[0], worker_service_pb2.ReportResponse).results
    reasons = [each.error.reason for each in results]
    assert reasons[:10] == [errors_pb2.ERROR_REASON_INVALID_ARGUMENT] * 10
    assert reasons[10:] == [errors_pb2.ERROR_REASON_CALL_FULL] * 990
