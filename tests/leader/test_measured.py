"""What a leader measures: each thing once, where it is decided, and only when it is applied."""

from __future__ import annotations

import asyncio

import pytest

from tests.leader.bench import Bench, claim, claimed, release, start, submit, until
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import (
    ANONYMOUS,
    Cancel,
    ConfigureQueue,
    Redrive,
    Report,
    Submit,
)
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.errors import OutcomeUnknownError
from tq_cluster.telemetry.metrics import Metrics


class MeasuredBench(Bench):
    """A bench whose leader measures."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        super().__init__(self.metrics)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def tasks(self, event: str, task_type: str) -> float | None:
        return self.sample(f"tq_tasks_{event}_total", queue="q", type=task_type)


@pytest.fixture
async def bench() -> MeasuredBench:
    made = MeasuredBench()
    await made.log.start()
    return made


def fail(task: worker_service_pb2.ClaimedTask, *, permanent: bool = False) -> Report:
    request = worker_service_pb2.ReportRequest(worker_id="w")
    failure = request.reports.add(task_id=task.spec.task_id, token=task.token).fail
    failure.error = "broke"
    failure.permanent = permanent
    return Report(request=request)


def complete(task: worker_service_pb2.ClaimedTask) -> Report:
    request = worker_service_pb2.ReportRequest(worker_id="w")
    report = request.reports.add(task_id=task.spec.task_id, token=task.token)
    report.complete.SetInParent()
    return Report(request=request)


async def test_what_becomes_of_tasks_is_counted_by_queue_and_type(bench: MeasuredBench) -> None:
    leader = bench.leader
    await leader.submit(submit("done", "retried", "dead", "released", "cancelled"))
    tasks = {task.spec.type: task for task in claimed(await leader.claim(claim(), 0, 0))}
    await leader.submit(complete(tasks["done"]))
    await leader.submit(fail(tasks["retried"]))
    await leader.submit(fail(tasks["dead"], permanent=True))
    await leader.submit(release(tasks["released"]))
    await leader.submit(release(tasks["cancelled"]))
    cancelled = tasks["cancelled"].spec.task_id
    await leader.submit(Cancel(request=task_service_pb2.CancelTaskRequest(task_id=cancelled)))
    await leader.submit(Redrive(request=queue_service_pb2.RedriveRequest(queue="q")))

    for each in tasks:
        assert bench.tasks("submitted", each) == bench.tasks("claimed", each) == 1
    assert bench.tasks("completed", "done") == 1
    assert bench.tasks("retried", "retried") == 1
    assert bench.tasks("failed", "dead") == bench.tasks("redriven", "dead") == 1
    assert bench.tasks("released", "released") == bench.tasks("cancelled", "cancelled") == 1
    assert bench.tasks("completed", "dead") is None
    assert bench.sample("tq_dead_letters_total", queue="q", reason="permanent_error") == 1
    assert bench.sample("tq_task_claim_latency_seconds_count", queue="q") == 5
    assert bench.sample("tq_task_attempts_sum", queue="q") == 2
    for state in ("completed", "failed", "cancelled"):
        assert bench.sample("tq_task_end_to_end_seconds_count", queue="q", state=state) == 1


async def test_what_is_answered_from_memory_is_not_counted_again(bench: MeasuredBench) -> None:
    for _ in range(3):
        await bench.leader.submit(submit("a", request_id="same"))
    granted = [await bench.leader.claim(claim(request_id="claim"), 0, 0) for _ in range(3)]
    (task,) = claimed(granted[-1])
    for _ in range(3):
        await bench.leader.submit(complete(task))

    for event in ("submitted", "claimed", "completed"):
        assert bench.tasks(event, "a") == 1, event


async def test_what_was_not_applied_is_not_counted(bench: MeasuredBench) -> None:
    bench.log.held = True
    unknown = await start(bench.leader.submit(submit("a")))

    bench.log.depose()

    with pytest.raises(OutcomeUnknownError):
        await unknown
    assert [sample for metric in bench.metrics.tasks.collect() for sample in metric.samples] == []


async def test_a_lease_that_expires_is_counted_with_the_retry_it_leads_to(
    bench: MeasuredBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.leader.submit(submit("a"))
    claimed(await bench.leader.claim(claim("silent", lease_s=1), 0, 0))

    monkeypatch.setattr(bench.leader._leases, "now_s", lambda: bench.leader._loop.time() + 60)
    await until(lambda: bench.tasks("retried", "a") == 1, turn_s=0.01)

    assert bench.sample("tq_lease_expiries_total", queue="q") == 1


async def test_only_the_leader_says_what_queues_hold_and_who_works(bench: MeasuredBench) -> None:
    urgent = task_pb2.TaskSpec(queue="q", type="a", priority=200)
    request = task_service_pb2.SubmitRequest(tasks=[urgent, urgent])
    await bench.leader.submit(Submit(request=request, id_seed="s"))
    await bench.leader.submit(submit("b"))
    (task,) = claimed(await bench.leader.claim(claim(most=1), 0, 0))
    beat = worker_service_pb2.HeartbeatRequest(worker_id="w")
    beat.leases.add(task_id=task.spec.task_id, token=task.token)
    beat.usage.slots, beat.usage.slots_busy = 8, 1
    await bench.leader.heartbeat(beat, ANONYMOUS)
    settings = queue_service_pb2.QueueSettings(paused=True)
    pause = queue_service_pb2.ConfigureQueueRequest(queue="idle", settings=settings)
    await bench.leader.submit(ConfigureQueue(request=pause))

    bench.leader.sample()

    def depth(state: str, priority: str) -> float | None:
        return bench.sample("tq_queue_tasks", queue="q", state=state, priority=priority)

    assert (depth("pending", "192-255"), depth("pending", "0-63")) == (1, 1)
    assert (depth("running", "192-255"), depth("running", "0-63")) == (1, None)
    assert bench.sample("tq_queue_workers", queue="q") == bench.sample("tq_workers") == 1
    assert (bench.sample("tq_workers_slots"), bench.sample("tq_workers_slots_busy")) == (8, 1)
    assert bench.sample("tq_leases") == 1
    assert bench.sample("tq_queue_paused", queue="idle") == 1
    assert bench.sample("tq_queue_head_age_seconds", queue="q") is not None

    bench.log.depose()
    bench.leader.sample()

    assert depth("pending", "0-63") is None
    assert bench.sample("tq_workers") is None
    assert bench.sample("tq_leader_changes_total") == 1


async def test_a_survey_of_many_queues_takes_a_slice_at_a_time(bench: MeasuredBench) -> None:
    for n in range(120):
        await bench.leader.submit(submit("a", request_id=f"r{n}", queue=f"q{n:03}"))

    for _ in range(2):
        bench.leader.sample()
        assert bench.sample("tq_workers") is None  # it is not through yet
    bench.leader.sample()

    others = bench.sample("tq_queue_tasks", queue="~other", state="pending", priority="0-63")
    assert others == 70
    assert bench.sample("tq_tasks_submitted_total", queue="~other", type="a") == 70


async def test_a_worker_that_names_a_queue_that_is_none_gets_no_series(
    bench: MeasuredBench,
) -> None:
    await bench.leader.submit(submit("a"))
    request = worker_service_pb2.ClaimRequest(worker_id="w", queues=['~other"\n'], max_tasks=1)
    with bench.leader._workers.claiming(DEFAULT_NAMESPACE, request):
        await asyncio.sleep(0)
        bench.leader.sample()

    assert bench.sample("tq_workers") == 1
    assert bench.sample("tq_queue_workers", queue='~other"\n') is None
