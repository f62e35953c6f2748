"""The worker's metrics, as Prometheus reads them (docs/worker.md lists them)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tq_process.metrics_port import MetricsPort
from tq_worker.status import handler_metrics
from tq_worker.status.status import WorkerStatus
from tq_worker.telemetry.stats import QueueAndType

_logger = logging.getLogger(__name__)

COLLECT_S = 5.0
TIDY_S = 60.0
TASK = ("queue", "type")


class WorkerCollector(Collector):
    """Reads the worker's status on the event loop, for any thread."""

    def __init__(self, status: WorkerStatus, loop: asyncio.AbstractEventLoop) -> None:
        self._status = status
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """Return every metric as it is now."""
        return asyncio.run_coroutine_threadsafe(self._collect(), self._loop).result(COLLECT_S)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the metrics depend on the tasks."""
        return ()

    async def _collect(self) -> list[Metric]:
        return list(families(self._status))


def families(status: WorkerStatus) -> Iterator[Metric]:
    """Make the metrics from the worker's status."""
    stats, usage = status.stats, status.usage.sample()
    stats.tidy()
    running = status.running()
    yield _tasks(
        "tq_worker_tasks_started",
        "Attempts whose handler was entered.",
        stats.started + running,
    )
    yield _tasks("tq_worker_tasks_completed", "Attempts that completed.", stats.completed)
    yield _tasks("tq_worker_tasks_failed", "Attempts that failed.", stats.failed)
    yield _tasks("tq_worker_tasks_released", "Tasks given back unfinished.", stats.released)
    yield _tasks("tq_worker_tasks_lost", "Leases lost before the attempt ended.", stats.lost)
    durations = HistogramMetricFamily(
        "tq_worker_handler_seconds", "How long handlers ran, whatever came of it.", labels=TASK
    )
    for kind, each in stats.durations.items():
        durations.add_metric(kind, list(each.buckets()), each.sum_s)
    yield durations
    slots = GaugeMetricFamily(
        "tq_worker_tasks_capacity", "Tasks that can run at a time.", labels=("execution",)
    )
    busy = GaugeMetricFamily("tq_worker_tasks_running", "Tasks that run.", labels=("execution",))
    for name, solo in (("shared", False), ("process", True)):
        slots.add_metric([name], status.slots(solo=solo))
        busy.add_metric([name], status.slots_busy(solo=solo))
    yield slots
    yield busy
    yield _gauge("tq_worker_tasks_held", "Leases held, those that wait included.", status.held())
    yield _gauge("tq_worker_reports_waiting", "Reports not answered yet.", status.backlog())
    claims = CounterMetricFamily(
        "tq_worker_claims", "Claim calls that came to an end.", labels=("outcome",)
    )
    for outcome in ("tasks", "nothing", "error"):
        claims.add_metric([outcome], stats.claims[outcome])
    yield claims
    yield _gauge(
        "tq_worker_claim_silence_seconds",
        "Since when no claim was answered; a long poll's length while all is well.",
        status.liveness.silence_s(),
    )
    yield CounterMetricFamily(
        "tq_worker_reconnects", "Connections made anew by the watchdog.", value=stats.reconnects
    )
    yield _gauge(
        "tq_worker_handler_processes", "Handler processes that take tasks.", status.processes()
    )
    yield CounterMetricFamily(
        "tq_worker_handler_process_deaths",
        "Handler processes that ended unasked or were killed.",
        value=stats.deaths,
    )
    relieved = CounterMetricFamily(
        "tq_worker_handler_processes_relieved",
        "Handler processes that made way for another.",
        labels=("reason",),
    )
    for reason in ("tasks", "memory", "reload", "stopped"):
        relieved.add_metric([reason], stats.recycled[reason])
    yield relieved
    yield _gauge(
        "tq_worker_memory_bytes", "Resident memory of all its processes.", usage.memory_bytes
    )
    yield CounterMetricFamily(
        "tq_worker_cpu_seconds", "Processor time of all its processes.", value=usage.cpu_s
    )


async def serve(status: WorkerStatus, host: str, port: int) -> Callable[[], None]:
    """Serve the worker's metrics and its handlers'; returns the function that stops it.

    Handler processes must be started afterwards. Raises OSError if it cannot listen at the port.
    """
    registry = CollectorRegistry()
    registry.register(WorkerCollector(status, asyncio.get_running_loop()))
    served = MetricsPort(registry)
    await served.start(host, port)
    if not handler_metrics.wanted():
        return served.stop
    try:
        of_handlers = handler_metrics.HandlerMetrics()
    except OSError as error:
        _logger.warning("what handlers count is not served", extra={"error": str(error)})
        return served.stop
    registry.register(of_handlers)
    tidying = asyncio.create_task(_tidy(of_handlers), name="files of handlers' metrics")

    def stop() -> None:
        tidying.cancel()
        served.stop()
        of_handlers.close()

    return stop


async def _tidy(of_handlers: handler_metrics.HandlerMetrics) -> None:
    while True:
        await asyncio.sleep(TIDY_S)
        await asyncio.to_thread(of_handlers.tidy)


def _tasks(name: str, help_: str, counts: Mapping[QueueAndType, int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=TASK)
    for kind, count in counts.items():
        family.add_metric(kind, count)
    return family


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)
