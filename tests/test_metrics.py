"""How metrics are kept: bounded in number, cheap to add to, and what Prometheus expects."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, Metric, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from chaos.cluster.ports import free_addresses
from tests.patience import PATIENCE_S
from tests.service.fakes import until
from tq.v1 import task_pb2, task_service_pb2
from tq_cluster.config import Member, NodeConfig
from tq_cluster.core.model.operations import Submit
from tq_cluster.node import node
from tq_cluster.telemetry.buckets import Buckets
from tq_cluster.telemetry.labels import OTHER, PAIRS_MAX, QUEUES_MAX, TYPES_MAX, Labels
from tq_cluster.telemetry.metrics import Metrics
from tq_cluster.telemetry.metrics_queues import Found, QueueMetrics
from tq_cluster.telemetry.metrics_tasks import EVENTS, TaskMetrics
from tq_process.recent import IDLE_S, IDLE_WHEN_FULL_S

BOUNDS = (5, 10, 100, 2_500)


class One(Collector):
    """Exports one histogram, in seconds."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("tq_x_seconds", "Some.", labels=["queue"])
        self._buckets.collect_into(family, ["q"], 1_000)
        yield family


def exposed(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "_created" not in line]


@given(st.lists(st.lists(st.integers(0, 5_000))))
def test_a_histogram_that_takes_batches_shows_what_one_of_the_client_library_shows(
    batches: list[list[int]],
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    buckets = Buckets(BOUNDS)
    ours.register(One(buckets))
    bounds = [bound / 1_000 for bound in BOUNDS]
    histogram = Histogram("tq_x_seconds", "Some.", ["queue"], buckets=bounds, registry=theirs)

    histogram.labels("q")
    for batch in batches:
        buckets.add(batch)
        for value in batch:
            histogram.labels("q").observe(value / 1_000)

    for mine, other in zip(exposed(ours), exposed(theirs), strict=True):
        assert mine.rpartition(" ")[0] == other.rpartition(" ")[0]
        assert abs(float(mine.rpartition(" ")[2]) - float(other.rpartition(" ")[2])) < 1e-6


def test_names_beyond_the_bound_share_a_series() -> None:
    labels = Labels()
    queues = [labels.queue(f"q{n}") for n in range(QUEUES_MAX + 1)]
    types = [labels.pair("q0", f"t{n}") for n in range(TYPES_MAX + 1)]

    assert queues[-2:] == [f"q{QUEUES_MAX - 1}", OTHER]
    assert types[-2:] == [("q0", f"t{TYPES_MAX - 1}"), ("q0", OTHER)]
    assert labels.queue("q0") == "q0"


def test_pairs_of_known_names_are_bounded_too() -> None:
    labels = Labels()
    pairs = {labels.pair(f"q{q}", f"t{t}") for q in range(QUEUES_MAX) for t in range(TYPES_MAX)}

    assert len(pairs) <= PAIRS_MAX + QUEUES_MAX
    assert labels.pair("q0", "t0") == ("q0", "t0")


def test_a_queue_that_is_idle_makes_room_for_another_and_takes_its_series_with_it() -> None:
    now_s = [0.0]
    labels = Labels(lambda: now_s[0])
    tasks, queues = TaskMetrics(labels), QueueMetrics(labels)
    registry = CollectorRegistry()
    registry.register(tasks)
    registry.register(queues)
    for n in range(QUEUES_MAX):
        name = queues.label(f"junk{n}")
        tasks.moved("submitted", name, f"t{n}", 1)
        tasks.waited(name, [1])
        tasks.lasted(name, "completed", [1])
        tasks.attempted(name, [1])
        tasks.died(name, "expired", 1)
        tasks.leases_expired(name, 1)
    queues.found(
        Found(
            unfinished={("junk0", "pending", 1): 3},
            finished={("junk0", "failed"): 1},
            head_age_s={"junk0": 1.0},
            purging={"junk0": 1},
            paused={"junk0"},
            queue_workers={"junk0": 1},
        )
    )
    assert 'queue="junk0"' in "".join(exposed(registry))
    assert labels.queue("real") == OTHER

    now_s[0] += IDLE_WHEN_FULL_S + 1
    tasks.moved("submitted", "junk1", "t1", 1)  # of all, this one is still met
    assert labels.queue("real") == "real"

    shown = "".join(exposed(registry))
    assert 'queue="junk0"' not in shown
    assert 'tq_tasks_submitted_total{queue="junk1",type="t1"} 2.0' in shown


def test_a_queue_that_nobody_uses_for_a_day_has_no_series_any_more() -> None:
    now_s = [0.0]
    labels = Labels(lambda: now_s[0])
    tasks = TaskMetrics(labels)
    registry = CollectorRegistry()
    registry.register(tasks)
    tasks.moved("submitted", "once", "t", 1)
    now_s[0] += IDLE_S / 2
    tasks.moved("submitted", "daily", "t", 1)

    now_s[0] += IDLE_S / 2 + 1
    labels.tidy()

    shown = "".join(exposed(registry))
    assert 'queue="once"' not in shown
    assert 'queue="daily"' in shown


def test_callers_cannot_make_the_exposition_grow_without_end() -> None:
    metrics = Metrics()
    for n in range(1_000):
        for event in EVENTS:
            metrics.tasks.moved(event, f"q{n}", f"t{n}", 1)
        metrics.tasks.waited(f"q{n}", [n])
        metrics.tasks.lasted(f"q{n}", "completed", [n])
    assert metrics.registry.get_sample_value(
        "tq_tasks_failed_total", {"queue": OTHER, "type": OTHER}
    ) == 1_000 - min(QUEUES_MAX, TYPES_MAX)

    assert len(exposed(metrics.registry)) < 4_000


def test_a_series_of_a_queue_that_is_empty_now_goes_on_at_zero() -> None:
    queues = QueueMetrics(Labels())
    registry = CollectorRegistry()
    registry.register(queues)
    labels = {"queue": "q", "state": "pending", "priority": "64-127"}

    queues.found(Found(unfinished={("q", "pending", 1): 3, ("q", "running", 0): 0}))
    before = registry.get_sample_value("tq_queue_tasks", labels)
    queues.found(Found())

    assert (before, registry.get_sample_value("tq_queue_tasks", labels)) == (3, 0)
    running = {"queue": "q", "state": "running", "priority": "0-63"}
    assert registry.get_sample_value("tq_queue_tasks", running) is None


@pytest.mark.slow
async def test_a_node_serves_what_it_leads_holds_and_has_on_its_disk(tmp_path: Path) -> None:
    raft, api, served = free_addresses(3)
    settings = NodeConfig(
        node_id="n1",
        data_dir=tmp_path / "n1",
        members={"n1": Member(raft=raft, api=api)},
        single=True,
        metrics_listen=served,
    )
    fatal: list[BaseException] = []
    one = node.Node(settings, fatal=fatal.append)
    await one.start()

    def read() -> str:
        with urllib.request.urlopen(f"http://{served}/metrics", timeout=PATIENCE_S) as reply:
            text: str = reply.read().decode()
            return text

    try:
        await until(one.group.leader.serving, "it leads")
        tasks = [task_pb2.TaskSpec(queue="q", type="resize", priority=70)]
        request = task_service_pb2.SubmitRequest(tasks=tasks)
        await one.group.leader.submit(Submit(request=request, id_seed="s"))
        value = one.metrics.registry.get_sample_value
        labels = {"queue": "q", "state": "pending", "priority": "64-127"}
        await until(lambda: value("tq_queue_tasks", labels) == 1, "the queues are looked through")
        await until(lambda: bool(value("tq_disk_free_bytes")), "the disk is looked at")
        text = await asyncio.to_thread(read)
    finally:
        await one.stop()

    assert fatal == []
    assert 'tq_tasks_submitted_total{queue="q",type="resize"} 1.0' in text
    assert "tq_leader_changes_total 1.0" in text
    assert "tq_workers 0.0" in text
    assert (value("tq_state_bytes") or 0) > 0
    assert (value("tq_disk_size_bytes") or 0) > (value("tq_disk_free_bytes") or 0) > 0
    assert value("tq_queue_tasks", labels) is None  # it leads no more
