"""The metrics of a node, each with its unit in its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

from tq_cluster.telemetry.labels import Labels
from tq_cluster.telemetry.metrics_queues import QueueMetrics
from tq_cluster.telemetry.metrics_tasks import TaskMetrics
from tq_cluster.telemetry.samples import Samples
from tq_process.metrics_port import MetricsPort

_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """The metrics of one node in a registry of its own, so that tests can have several."""

    def __init__(self, version: str = "") -> None:
        self.registry = CollectorRegistry()
        self.fsyncs = Samples()
        self._labels = labels = Labels()
        self.tasks = TaskMetrics(labels)
        self.queues = QueueMetrics(labels)
        self.registry.register(self.tasks)
        self.registry.register(self.queues)
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "tq_build_info", "1, with the version that runs.", ["version"], registry=self.registry
        )
        build.labels(version).set(1)
        self._decide = self._histogram("tq_decide_seconds", "Deciding one batch on the leader.")
        self._commit = self._histogram(
            "tq_commit_seconds", "From proposing an entry to having applied it, on the leader."
        )
        self._confirm = self._histogram(
            "tq_confirm_seconds", "Confirming leadership for answers that no entry carries."
        )
        self._fsync = self._histogram("tq_journal_fsync_seconds", "One fsync of the journal.")
        self._apply = self._histogram("tq_apply_seconds", "Applying one entry to the state.")
        self._state_commit = self._histogram(
            "tq_state_commit_seconds", "One commit of the state, with its fsync."
        )
        self._loop_hold = self._histogram(
            "tq_loop_hold_seconds", "How late the event loop ran a timer."
        )
        self._leads = self._gauge("tq_leads", "1 while this node leads.")
        self._term = self._gauge("tq_term", "The term this node is in.")
        self._commit_index = self._gauge("tq_commit_index", "The last entry known committed.")
        self._applied_index = self._gauge("tq_applied_index", "The last entry applied.")
        self._log_time_ahead = self._gauge(
            "tq_log_time_ahead_seconds",
            "Log time less the median of the members' clocks, on the leader; 0 elsewhere.",
        )
        self._calls = self._gauge("tq_calls", "Calls held now, long polls included.")
        self._conversations = self._gauge("tq_conversations", "Conversations held now.")
        self._request_bytes = self._gauge(
            "tq_request_held_bytes", "Of requests that wait for their answers."
        )
        self._reply_bytes = self._gauge(
            "tq_reply_held_bytes", "Of replies that their callers have not read yet."
        )
        self._requests_reading = self._gauge(
            "tq_requests_reading", "Requests that are being read off the network now."
        )
        self._calls_refused = Counter(
            "tq_calls_refused_total",
            "Calls refused because the node holds as much as it takes, by limit.",
            ["limit"],
            registry=self.registry,
        )
        self._refused_told: dict[str, int] = {}
        self._disk_free = self._gauge(
            "tq_disk_free_bytes", "Free on the disk of the data directory."
        )
        self._disk_low = self._gauge(
            "tq_disk_low", "1 while the disk is nearly full: the node has no room for new tasks."
        )
        self._journal_bytes = self._gauge("tq_journal_bytes", "Size of the journal on disk.")
        self._state_bytes = self._gauge("tq_state_bytes", "What the state takes on the disk.")
        self._disk_size = self._gauge(
            "tq_disk_size_bytes", "Size of the disk of the data directory."
        )
        self._leader_changes = Counter(
            "tq_leader_changes_total",
            "Times this node became the leader: the sum over the brokers is how often it changed.",
            registry=self.registry,
        )
        self._connections_max = self._gauge(
            "tq_connections_max", "Connections that callers may have at once."
        )
        self._refused = Counter(
            "tq_connections_refused_total",
            "Connections that the raft port or the metrics port did not accept, by port and reason:"
            " as many in all, or from their address, stood already, they came too fast, or no"
            " descriptor was left.",
            ["port", "reason"],
            registry=self.registry,
        )
        self._housekeeping = Counter(
            "tq_housekeeping_items_total",
            "Leases, tasks and request ids that this broker, leading, saw to as their time came.",
            ["kind"],
            registry=self.registry,
        )
        self._housekeeping_failures = Counter(
            "tq_housekeeping_failures_total",
            "Times that something which was due could not be decided and was passed over.",
            ["kind"],
            registry=self.registry,
        )
        self._scrub_differences = Counter(
            "tq_scrub_differences_total",
            "Ranges in which this broker, leading, found the brokers' states to differ.",
            registry=self.registry,
        )
        self._scrub_finished = self._gauge(
            "tq_scrub_finished_timestamp_seconds",
            "When all of the state had last been compared, by log time. 0: never.",
        )

    def housekept(self, kind: str, items: int) -> None:
        """On the leader: count its own work that was done."""
        self._housekeeping.labels(kind).inc(items)

    def undecidable(self, kind: str) -> None:
        """On the leader: count own work that cannot be decided."""
        self._housekeeping_failures.labels(kind).inc()

    def states_differ(self) -> None:
        """On the leader: count a broker whose state differs from the others'."""
        self._scrub_differences.inc()

    def scrub_finished(self, at_ms: int) -> None:
        """Set when the last complete pass ended; called from time to time."""
        self._scrub_finished.set(at_ms / 1000)

    def decided(self, seconds: float) -> None:
        """One batch was decided."""
        self._decide.observe(seconds)

    def committed(self, seconds: float) -> None:
        """One entry was committed and applied."""
        self._commit.observe(seconds)

    def confirmed(self, seconds: float) -> None:
        """Leadership was confirmed."""
        self._confirm.observe(seconds)

    def fsynced(self, seconds: float) -> None:
        """The journal was fsynced."""
        self.fsyncs.add(seconds)
        self._fsync.observe(seconds)

    def applied(self, seconds: float) -> None:
        """One entry was applied."""
        self._apply.observe(seconds)

    def state_committed(self, seconds: float) -> None:
        """The state was committed."""
        self._state_commit.observe(seconds)

    def loop_held(self, seconds: float) -> None:
        """The loop was late by this much."""
        self._loop_hold.observe(seconds)

    def stands(self, *, leads: bool, term: int, commit_index: int, applied_index: int) -> None:
        """Set the log's positions; called from time to time: another thread reads gauges."""
        self._labels.tidy()
        self._leads.set(leads)
        self._term.set(term)
        self._commit_index.set(commit_index)
        self._applied_index.set(applied_index)

    def log_time(self, ahead_s: float) -> None:
        """Set how far log time is ahead of the members' clocks; called as above."""
        self._log_time_ahead.set(ahead_s)

    def holds(self, *, calls: int, conversations: int, journal_bytes: int) -> None:
        """Set what the node holds; called from time to time."""
        self._calls.set(calls)
        self._conversations.set(conversations)
        self._journal_bytes.set(journal_bytes)

    def holds_for_callers(
        self, *, request_bytes: int, reply_bytes: int, reading: int, refused: Mapping[str, int]
    ) -> None:
        """Set what callers make the node hold, and how often it refused; called as above."""
        self._request_bytes.set(request_bytes)
        self._reply_bytes.set(reply_bytes)
        self._requests_reading.set(reading)
        for limit, count in refused.items():
            self._calls_refused.labels(limit).inc(count - self._refused_told.get(limit, 0))
            self._refused_told[limit] = count

    def has_room(self, *, free_bytes: int, low: bool) -> None:
        """Set the free space of the disk."""
        self._disk_free.set(free_bytes)
        self._disk_low.set(low)

    def disk(self, *, state_bytes: int, size_bytes: int) -> None:
        """Set the state's space on the disk; called from time to time."""
        self._state_bytes.set(state_bytes)
        self._disk_size.set(size_bytes)

    def leads_now(self) -> None:
        """This node became the leader."""
        self._leader_changes.inc()

    def connections_max(self, most: int) -> None:
        """Set the limit on callers' connections."""
        self._connections_max.set(most)

    def refuses(self, port: str) -> Callable[[str], None]:
        """Return a callback that counts connections refused at ``port``, by reason."""
        return lambda reason: self._refused.labels(port, reason).inc()

    async def serve(self, host: str, port: int) -> Callable[[], None]:
        """Serve the metrics over HTTP; the result stops it. OSError: port in use."""
        served = MetricsPort(self.registry, refused=self.refuses("metrics"))
        await served.start(host, port)
        return served.stop

    def _histogram(self, name: str, help_: str) -> Histogram:
        return Histogram(name, help_, buckets=_SECONDS, registry=self.registry)

    def _gauge(self, name: str, help_: str) -> Gauge:
        return Gauge(name, help_, registry=self.registry)
