"""What became of tasks: counted by the leader that decided it, once it applied it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, get_args

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tq_cluster.telemetry.buckets import Buckets
from tq_cluster.telemetry.labels import Labels

Event = Literal[
    "submitted",
    "claimed",
    "completed",
    "failed",
    "retried",
    "released",
    "cancelled",
    "redriven",
]
EVENTS: Final[tuple[Event, ...]] = get_args(Event)

_HELP: Final[Mapping[Event, str]] = {
    "submitted": "Tasks created.",
    "claimed": "Attempts started: leases granted, repeated answers not counted again.",
    "completed": "Tasks that ended in success.",
    "failed": "Tasks that became dead letters.",
    "retried": "Attempts that led to a later one: failed, expired, or given back for a while.",
    "released": "Attempts given back by their worker, which do not count.",
    "cancelled": "Tasks cancelled, those of a purge included.",
    "redriven": "Dead letters made pending again.",
}
WHERE_COUNTED: Final = (
    " Counted on the leader that decided it, once the entry was applied there: sum over the"
    " brokers. An entry whose leader fell before it knew is counted by none."
)

SPANS_MS: Final = (
    *(5, 10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000, 60_000),
    *(300_000, 1_800_000, 7_200_000, 86_400_000),
)
ATTEMPTS: Final = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)
_MS_PER_SECOND: Final = 1_000


class TaskMetrics(Collector):
    """Counters and histograms of tasks; one thread adds, another collects."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._moves: dict[tuple[Event, str, str], int] = {}
        self._dead_letters: dict[tuple[str, str], int] = {}
        self._leases_expired: dict[str, int] = {}
        self._waited: dict[tuple[str], Buckets] = {}
        self._lasted: dict[tuple[str, str], Buckets] = {}
        self._attempts: dict[tuple[str], Buckets] = {}
        labels.on_gone(self._queue_gone, self._pair_gone)

    def _queue_gone(self, queue: str) -> None:
        """Drop all series of a queue, also those of its types."""
        self._waited.pop((queue,), None)
        self._attempts.pop((queue,), None)
        for died in [each for each in self._dead_letters if each[0] == queue]:
            del self._dead_letters[died]
        for lasted in [each for each in self._lasted if each[0] == queue]:
            del self._lasted[lasted]
        self._leases_expired.pop(queue, None)
        for move in [each for each in self._moves if each[1] == queue]:
            del self._moves[move]

    def _pair_gone(self, queue: str, task_type: str) -> None:
        for event in EVENTS:
            self._moves.pop((event, queue, task_type), None)

    def moved(self, event: Event, queue: str, task_type: str, count: int) -> None:
        """Count what happened to tasks of one type."""
        key = (event, *self._labels.pair(queue, task_type))
        self._moves[key] = self._moves.get(key, 0) + count

    def died(self, queue: str, reason: str, count: int) -> None:
        """Count dead letters."""
        key = (self._labels.queue(queue), reason)
        self._dead_letters[key] = self._dead_letters.get(key, 0) + count

    def leases_expired(self, queue: str, count: int) -> None:
        """Count leases that expired because their workers were silent for too long."""
        label = self._labels.queue(queue)
        self._leases_expired[label] = self._leases_expired.get(label, 0) + count

    def waited(self, queue: str, milliseconds: Sequence[int]) -> None:
        """Record how long tasks had been due when they were leased."""
        key = (self._labels.queue(queue),)
        buckets = self._waited.get(key) or self._waited.setdefault(key, Buckets(SPANS_MS))
        buckets.add(milliseconds)

    def lasted(self, queue: str, state: str, milliseconds: Sequence[int]) -> None:
        """Record how long tasks had existed when they ended."""
        key = (self._labels.queue(queue), state)
        buckets = self._lasted.get(key) or self._lasted.setdefault(key, Buckets(SPANS_MS))
        buckets.add(milliseconds)

    def attempted(self, queue: str, attempts: Sequence[int]) -> None:
        """Record how many attempts tasks took to their end."""
        key = (self._labels.queue(queue),)
        buckets = self._attempts.get(key) or self._attempts.setdefault(key, Buckets(ATTEMPTS))
        buckets.add(attempts)

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without their values."""
        yield from self._counters().values()
        yield from self._others()

    def collect(self) -> Iterator[Metric]:
        """Yield everything counted so far."""
        counters = self._counters()
        # Copying a dictionary is one step to the other thread, walking through it is many.
        for (event, queue, task_type), count in self._moves.copy().items():
            counters[event].add_metric([queue, task_type], count)
        yield from counters.values()
        dead_letters, leases_expired, waited, lasted, attempts = self._others()
        for key, count in self._dead_letters.copy().items():
            dead_letters.add_metric(key, count)
        for label, count in self._leases_expired.copy().items():
            leases_expired.add_metric([label], count)
        yield from (dead_letters, leases_expired)
        for label_, buckets in self._waited.copy().items():
            buckets.collect_into(waited, label_, _MS_PER_SECOND)
        for labels, buckets in self._lasted.copy().items():
            buckets.collect_into(lasted, labels, _MS_PER_SECOND)
        for label_, buckets in self._attempts.copy().items():
            buckets.collect_into(attempts, label_, 1)
        yield from (waited, lasted, attempts)

    def _counters(self) -> dict[Event, CounterMetricFamily]:
        return {
            event: CounterMetricFamily(
                f"tq_tasks_{event}_total", _HELP[event] + WHERE_COUNTED, labels=["queue", "type"]
            )
            for event in EVENTS
        }

    def _others(
        self,
    ) -> tuple[
        CounterMetricFamily,
        CounterMetricFamily,
        HistogramMetricFamily,
        HistogramMetricFamily,
        HistogramMetricFamily,
    ]:
        return (
            CounterMetricFamily(
                "tq_dead_letters_total",
                "Tasks that became dead letters, by why they were given up." + WHERE_COUNTED,
                labels=["queue", "reason"],
            ),
            CounterMetricFamily(
                "tq_lease_expiries_total",
                "Leases that ended because their worker was silent for too long." + WHERE_COUNTED,
                labels=["queue"],
            ),
            HistogramMetricFamily(
                "tq_task_claim_latency_seconds",
                "From a task being due to its being leased, once an attempt; after a release from"
                " when it was first due." + WHERE_COUNTED,
                labels=["queue"],
            ),
            HistogramMetricFamily(
                "tq_task_end_to_end_seconds",
                "From a task's submission to its end, by the state it ended in." + WHERE_COUNTED,
                labels=["queue", "state"],
            ),
            HistogramMetricFamily(
                "tq_task_attempts",
                "How many attempts a task took to be completed or given up." + WHERE_COUNTED,
                labels=["queue"],
            ),
        )
