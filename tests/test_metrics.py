"""How metrics are kept: bounded in number, cheap to add to, and what Prometheus expects."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, Metric, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from tq_cluster.telemetry.buckets import Buckets
from tq_cluster.telemetry.labels import OTHER, PAIRS_MAX, QUEUES_MAX, TYPES_MAX, Labels
from tq_cluster.telemetry.metrics import Metrics
from tq_cluster.telemetry.metrics_queues import Found, QueueMetrics
from tq_cluster.telemetry.metrics_tasks import EVENTS

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
