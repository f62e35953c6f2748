"""A leader writes log lines about its tasks, if its configuration asks for them."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from tests.leader.bench import Bench, claim, claimed, start, submit, until
from tq.v1 import worker_service_pb2
from tq_cluster.core.model.events import TaskEvent, What
from tq_cluster.core.model.operations import Report
from tq_cluster.leader import task_log
from tq_cluster.leader.leader import EVENTS
from tq_cluster.telemetry.logs import keys_of

TRACE = f"00-{'1' * 32}-{'2' * 16}-01"


def event(what: What, **changed: object) -> TaskEvent:
    facts: dict[str, object] = {
        "what": what,
        "namespace": 0,
        "task_id": "t1",
        "queue": "q",
        "task_type": "resize",
        "attempt": 2,
        "worker_id": "w1",
        "traceparent": TRACE,
        "due_at_ms": 1_760_000_000_000,
        "reason": 0,
    }
    return TaskEvent(**{**facts, **changed})  # type: ignore[arg-type]  # as above


async def test_events_are_told_once_they_are_applied_and_not_before() -> None:
    told: list[TaskEvent] = []
    bench = Bench(on_event=told.append)
    await bench.log.start()
    bench.log.held = True
    submitting = await start(bench.leader.submit(submit("resize")))
    await until(lambda: len(bench.log.proposals) == 1)
    assert told == []

    bench.log.held = False
    bench.log.let_through()
    await submitting
    (task,) = claimed(await bench.leader.claim(claim(), 0, 0.0))
    report = worker_service_pb2.ReportRequest(worker_id="w")
    report.reports.add(task_id=task.spec.task_id, token=task.token).complete.SetInParent()
    await bench.leader.submit(Report(request=report))

    assert [each.what for each in told] == [What.SUBMITTED, What.ASSIGNED, What.COMPLETED]


async def test_the_events_of_a_large_entry_are_told_in_turns_and_in_order() -> None:
    told: list[TaskEvent] = []
    bench = Bench(on_event=told.append)
    await bench.log.start()
    bench.log.held = True
    submitting = await start(bench.leader.submit(submit(*["t"] * 3 * EVENTS)))
    await until(lambda: len(bench.log.proposals) == 1)

    bench.log.held = False
    bench.log.let_through()
    heard = [0]
    while heard[-1] < 3 * EVENTS:
        await asyncio.sleep(0)
        heard.append(len(told))
    await submitting
    (task,) = claimed(await bench.leader.claim(claim(most=1), 0, 0.0))

    assert max(b - a for a, b in itertools.pairwise(heard)) == EVENTS
    assert [each.what for each in told] == [What.SUBMITTED] * 3 * EVENTS + [What.ASSIGNED]
    assert told[-1].task_id == told[0].task_id == task.spec.task_id


async def test_a_leader_that_stops_leaves_no_event_untold() -> None:
    told: list[TaskEvent] = []
    bench = Bench(on_event=told.append)
    await bench.log.start()
    bench.log.held = True
    submitting = await start(bench.leader.submit(submit(*["t"] * 3 * EVENTS)))
    await until(lambda: len(bench.log.proposals) == 1)
    bench.log.let_through()
    await until(lambda: bool(told))
    assert len(told) < 3 * EVENTS

    bench.leader.stop()
    await submitting

    assert len(told) == 3 * EVENTS


def test_a_line_names_the_task_its_attempt_and_its_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given back afterwards. All other lines begin at WARNING here.
    caplog.set_level(logging.NOTSET, logger=task_log.__name__)
    write = task_log.writer(wanted=True)
    assert write is not None

    write(event(What.RETRIED))
    write(event(What.DEAD, reason=2, traceparent=""))
    write(event(What.SUBMITTED, attempt=0, worker_id=""))

    lines = [(record.getMessage(), keys_of(record)) for record in caplog.records]
    task = {"task_id": "t1", "queue": "q", "type": "resize"}
    tried = {**task, "attempt": 2, "worker_id": "w1"}
    trace = {"trace_id": "1" * 32}
    assert lines == [
        ("task retried", {**tried, "due_at": "2025-10-09T08:53:20.000Z", **trace}),
        ("task dead", {**tried, "reason": "PERMANENT_ERROR"}),
        ("task submitted", {**task, **trace}),
    ]


def test_nobody_writes_where_nobody_wants_it() -> None:
    assert task_log.writer(wanted=False) is None
