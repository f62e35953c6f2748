"""Queue contents and workers, as the leader finds them every few seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tq_cluster.telemetry.labels import OTHER, Labels

BANDS: Final = ("0-63", "64-127", "128-191", "192-255")
"""Ranges of priorities that share a series."""
ON_THE_LEADER: Final = " Only the leader says it."


@dataclass(slots=True)
class Found:
    """The result of one survey of queues and workers, by the queues' labels."""

    unfinished: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """Tasks by queue, state and band."""
    finished: dict[tuple[str, str], int] = field(default_factory=dict)
    """Tasks by queue and state."""
    head_age_s: dict[str, float] = field(default_factory=dict)
    purging: dict[str, int] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    ever_paused: set[str] = field(default_factory=set)
    queue_workers: dict[str, int] = field(default_factory=dict)
    workers: int = 0
    slots: int = 0
    slots_busy: int = 0
    leases: int = 0


class QueueMetrics(Collector):
    """Gauges of the last survey; no series at all on a node that does not lead."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._found: Found | None = None
        labels.on_gone(self._queue_gone)

    def label(self, queue: str) -> str:
        """Return the label of a queue that has something to show."""
        return self._labels.queue(queue)

    def found(self, found: Found | None) -> None:
        """Show a survey; None: this node does not lead."""
        if found is None:
            self._found = None
            return
        before = self._found
        shown = Found(
            workers=found.workers,
            slots=found.slots,
            slots_busy=found.slots_busy,
            leases=found.leases,
        )
        # A series that was ever shown continues at zero; one that was always zero is left out.
        if before is not None:
            shown.unfinished = dict.fromkeys(before.unfinished, 0)
            shown.finished = dict.fromkeys(before.finished, 0)
            shown.head_age_s = dict.fromkeys(before.head_age_s, 0.0)
            shown.purging = dict.fromkeys(before.purging, 0)
            shown.queue_workers = dict.fromkeys(before.queue_workers, 0)
            shown.ever_paused = before.ever_paused.copy()
        shown.unfinished |= {key: count for key, count in found.unfinished.items() if count}
        shown.finished |= {key: count for key, count in found.finished.items() if count}
        shown.head_age_s |= found.head_age_s
        shown.purging |= found.purging
        shown.queue_workers |= found.queue_workers
        shown.paused = found.paused - {OTHER}
        shown.ever_paused |= shown.paused
        self._found = shown

    def _queue_gone(self, queue: str) -> None:
        found = self._found
        if found is None:
            return
        self._found = replace(
            found,
            unfinished={key: n for key, n in found.unfinished.items() if key[0] != queue},
            finished={key: n for key, n in found.finished.items() if key[0] != queue},
            head_age_s={key: age for key, age in found.head_age_s.items() if key != queue},
            purging={key: n for key, n in found.purging.items() if key != queue},
            paused=found.paused - {queue},
            ever_paused=found.ever_paused - {queue},
            queue_workers={key: n for key, n in found.queue_workers.items() if key != queue},
        )

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without their values."""
        yield from self._families().values()

    def collect(self) -> Iterator[Metric]:
        """Yield the last survey."""
        families = self._families()
        found = self._found
        if found is not None:
            for (queue, state, band), count in found.unfinished.items():
                families["unfinished"].add_metric([queue, state, BANDS[band]], count)
            for key, count in found.finished.items():
                families["finished"].add_metric(key, count)
            for queue, age_s in found.head_age_s.items():
                families["head_age"].add_metric([queue], age_s)
            for queue, count in found.purging.items():
                families["purging"].add_metric([queue], count)
            for queue in found.ever_paused:
                families["paused"].add_metric([queue], queue in found.paused)
            for queue, count in found.queue_workers.items():
                families["queue_workers"].add_metric([queue], count)
            families["workers"].add_metric([], found.workers)
            families["slots"].add_metric([], found.slots)
            families["slots_busy"].add_metric([], found.slots_busy)
            families["leases"].add_metric([], found.leases)
        yield from families.values()

    def _families(self) -> Mapping[str, GaugeMetricFamily]:
        def family(name: str, help_: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, help_ + ON_THE_LEADER, labels=labels)

        return {
            "unfinished": family(
                "tq_queue_tasks",
                "Unfinished tasks now, by state and by band of priorities.",
                *("queue", "state", "priority"),
            ),
            "finished": family(
                "tq_queue_finished_tasks",
                "Finished tasks kept until their retention ends; the failed are the dead letters.",
                *("queue", "state"),
            ),
            "head_age": family(
                "tq_queue_head_age_seconds",
                "For how long the task that is claimed next has been due; 0 with none pending."
                f" Under {OTHER} the longest.",
                "queue",
            ),
            "purging": family(
                "tq_queue_purging_tasks",
                "Waiting tasks that are purged: they never start, and are cancelled soon.",
                "queue",
            ),
            "paused": family("tq_queue_paused", "1 while a queue hands nothing out.", "queue"),
            "queue_workers": family(
                "tq_queue_workers",
                "Workers that claim from a queue; one that claims from two is in both.",
                "queue",
            ),
            "workers": family("tq_workers", "Workers that claim now or did within a minute."),
            "slots": family("tq_workers_slots", "Tasks that these workers can run at a time."),
            "slots_busy": family("tq_workers_slots_busy", "Tasks that these workers run."),
            "leases": family("tq_leases", "Leases that stand."),
        }
