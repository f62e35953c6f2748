"""A steady stream of tasks that are submitted, run, kept for a while and removed: is it flat?

Half an hour of it shows a leak of a few bytes a task, and housekeeping that falls behind.
Part of `python -m benchmarks.soak`.
"""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.table import Table

from benchmarks.cluster import anonymous_bytes, brokers, cpu_s, payload, pids
from benchmarks.figures import percentile
from benchmarks.plot import Curve, chart
from chaos.cluster.processes import ProcessCluster
from tq.v1.worker_service_pb2 import ClaimRequest, Completion, ReportRequest, TaskReport
from tq_client import AsyncClient, TqError, task_spec

QUEUE, LONE = "bench", "lone"
BATCH: Final = 250
SUBMITS_MAX: Final = 8
"""The limit of calls under way: above it the brokers are too slow for the requested rate."""
UNFINISHED_MAX: Final = 20_000
"""The limit of waiting and running tasks: above it the brokers or the workers are too slow."""
WORKERS: Final = 12
CLAIM_TASKS: Final = 250
READ_EVERY_S: Final = 5.0
LONE_EVERY_S: Final = 0.1
FLAT: Final = 1.2
"""The limit for flat: the last quarter over the first once the first tasks are removed."""
LATE_S: Final = 5.0
"""How long after their retention tasks may be removed: too short to be noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The measurements of one instant."""

    at_s: float
    submitted_per_s: float
    completed_per_s: float
    removed_per_s: float
    leader_cores: float
    """The processor time a second of the broker that uses the most: the cost of the rate."""
    waiting: int
    kept: int
    """Finished tasks that are not removed yet."""
    completed: int
    removed: int
    late_s: float
    """How much longer than their retention the tasks removed now were kept."""
    rows: int
    memory_mb: float
    """The anonymous memory of the broker that uses the most."""
    state_mb: float
    journal_mb: float
    lone_p99_ms: float
    """The latency of a caller that submits one task at a time."""


class Steady:
    """One run."""

    def __init__(
        self,
        cluster: ProcessCluster,
        client: AsyncClient,
        *,
        rate: float,
        retention: timedelta,
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._rate = rate
        self._retention_s = retention.total_seconds()
        self._specs = [task_spec(QUEUE, "noop", payload(), retention=retention)] * BATCH
        self._lone = task_spec(LONE, "noop", payload(), retention=timedelta(0))
        self._submitting: set[asyncio.Task[None]] = set()
        self._unfinished = 0
        self._room = asyncio.Event()
        self._room.set()
        self._cpu_s: list[float] = []
        self._lone_s: list[float] = []
        self._began_s = time.monotonic()
        self._before = (self._began_s, 0, 0, 0)
        self.samples: list[Sample] = []

    async def submit(self) -> None:
        """Submit at the requested rate, or as fast as the brokers take it."""
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + BATCH / self._rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            while len(self._submitting) >= SUBMITS_MAX:
                done, self._submitting = await asyncio.wait(
                    self._submitting, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    each.result()
            await self._room.wait()
            self._submitting.add(asyncio.create_task(self._submit()))
            self._count(BATCH)

    async def work(self, worker_id: str) -> None:
        """Claim and complete tasks."""
        wait, lease = Duration(seconds=5), Duration(seconds=60)
        while True:
            answer = await self._client.claim(
                ClaimRequest(
                    worker_id=worker_id,
                    queues=[QUEUE],
                    max_tasks=CLAIM_TASKS,
                    wait=wait,
                    lease=lease,
                )
            )
            reports = [
                TaskReport(task_id=task.spec.task_id, token=task.token, complete=Completion())
                for task in answer.reply.tasks
            ]
            if reports:
                await self._client.report(ReportRequest(worker_id=worker_id, reports=reports))
                self._count(-len(reports))

    async def call(self) -> None:
        """Submit one task after the other, as a caller that notices delays; purge them at times."""
        while True:
            for _ in range(100):
                begun_s = time.perf_counter()
                _require(await self._client.submit_many([self._lone]))
                self._lone_s.append(time.perf_counter() - begun_s)
                await asyncio.sleep(LONE_EVERY_S)
            async for _ in self._client.purge_queue(LONE):
                pass

    async def read(self) -> Sample:
        """Take one sample."""
        status = await self._client.cluster_status()
        stats = await self._client.queue_stats(QUEUE)
        rows = (await self._client.verify_state()).rows_total
        now_s = time.monotonic()
        removed = stats.totals.completed - stats.completed
        before_s, *before = self._before
        counts = (stats.totals.submitted, stats.totals.completed, removed)
        rates = [
            (now - then) / max(now_s - before_s, 1e-3)
            for now, then in zip(counts, before, strict=True)
        ]
        self._before = (now_s, *counts)
        cpu_before, self._cpu_s = self._cpu_s, [cpu_s(pid) for pid in pids(self._cluster)]
        used_s = [now - then for now, then in zip(self._cpu_s, cpu_before, strict=False)]
        lone_s, self._lone_s = self._lone_s, []
        at_s = now_s - self._began_s
        sample = Sample(
            at_s=at_s,
            submitted_per_s=rates[0],
            completed_per_s=rates[1],
            removed_per_s=rates[2],
            leader_cores=max(used_s, default=0.0) / max(now_s - before_s, 1e-3),
            waiting=stats.pending + stats.running,
            kept=stats.completed,
            completed=stats.totals.completed,
            removed=removed,
            late_s=late_s(self.samples, at_s, removed, self._retention_s),
            rows=rows,
            memory_mb=max(map(anonymous_bytes, pids(self._cluster))) / 1e6,
            state_mb=max(node.state_bytes for node in status.nodes) / 1e6,
            journal_mb=max(node.journal_bytes for node in status.nodes) / 1e6,
            lone_p99_ms=percentile(lone_s, 99) * 1e3 if lone_s else 0.0,
        )
        self.samples.append(sample)
        return sample

    def _count(self, tasks: int) -> None:
        self._unfinished += tasks
        if self._unfinished > UNFINISHED_MAX:
            self._room.clear()
        else:
            self._room.set()

    async def stop(self) -> None:
        """End all calls that are under way."""
        for each in self._submitting:
            each.cancel()
        await asyncio.gather(*self._submitting, return_exceptions=True)

    async def _submit(self) -> None:
        _require(await self._client.submit_many(self._specs))


async def run(
    *, rate: float, minutes: float, retention_s: float, plot: Path, console: Console
) -> list[str]:
    """Run the benchmark; return what was not flat."""
    retention = timedelta(seconds=retention_s)
    async with brokers(None) as cluster, AsyncClient(cluster.addresses) as client:
        steady = Steady(cluster, client, rate=rate, retention=retention)
        working = [
            asyncio.create_task(steady.submit()),
            asyncio.create_task(steady.call()),
            *(asyncio.create_task(steady.work(f"w{number}")) for number in range(WORKERS)),
        ]
        try:
            until_s = time.monotonic() + minutes * 60
            while time.monotonic() < until_s:
                done, _ = await asyncio.wait(
                    working, timeout=READ_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    each.result()
                console.print(_line(await steady.read()))
        finally:
            for each in working:
                each.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            await steady.stop()
    console.print(_summary(steady.samples))
    _write(plot, steady.samples, rate, retention_s)
    console.print(f"the plot is in {plot}, its figures in {plot.with_suffix('.csv')}")
    return faults(steady.samples, retention_s)


def faults(samples: Sequence[Sample], retention_s: float) -> list[str]:
    """The figures that grew between some time after the first removals and the end."""
    settled = [sample for sample in samples if sample.at_s >= 2 * retention_s]
    if len(settled) < 4:
        return [f"too short: it takes four readings after {2 * retention_s:.0f} s"]
    quarter = max(1, len(settled) // 4)
    rows = accumulate((sample.rows for sample in samples), max)
    most = dict(zip((sample.at_s for sample in samples), rows, strict=True))
    found = []
    figures: dict[str, Callable[[Sample], float]] = {
        # A shared machine is not always as fast, and keeps more tasks while it is faster.
        "rows a task": lambda sample: sample.rows / max(1, sample.kept + sample.waiting),
        "memory, MB": lambda sample: sample.memory_mb,
        # The file is as large as the most that it ever held.
        "state, MB for 100,000 rows": lambda sample: sample.state_mb / most[sample.at_s] * 1e5,
    }
    for name, figure in figures.items():
        early, late = (
            sum(map(figure, part)) / len(part) for part in (settled[:quarter], settled[-quarter:])
        )
        if late > FLAT * early:
            found.append(f"{name}: grew from {early:,.1f} to {late:,.1f}")
    latest_s = max(sample.late_s for sample in settled[-quarter:])
    if latest_s > LATE_S:
        found.append(f"tasks were removed {latest_s:.1f} s after their retention")
    return found


def late_s(samples: Sequence[Sample], at_s: float, removed: int, retention_s: float) -> float:
    """How much longer than its retention the last removed task was kept."""
    before_s, before = 0.0, 0
    for sample in samples:
        if sample.completed >= removed:
            share = (removed - before) / max(1, sample.completed - before)
            finished_s = before_s + share * (sample.at_s - before_s)
            return max(0.0, at_s - finished_s - retention_s)
        before_s, before = sample.at_s, sample.completed
    return 0.0


def _require(outcomes: Sequence[str | TqError]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, TqError):
            raise outcome


def _line(sample: Sample) -> str:
    return (
        f"{sample.at_s:6.0f} s  submitted {sample.submitted_per_s:7,.0f}/s"
        f"  completed {sample.completed_per_s:7,.0f}/s  removed {sample.removed_per_s:7,.0f}/s"
        f"  leader {sample.leader_cores:4.2f} cores  waiting {sample.waiting:8,}"
        f"  kept {sample.kept:9,} late {sample.late_s:4.1f} s  rows {sample.rows:10,}"
        f"  memory {sample.memory_mb:6.0f} MB  state {sample.state_mb:7.1f} MB"
        f"  journal {sample.journal_mb:6.1f} MB  lone p99 {sample.lone_p99_ms:6.0f} ms"
    )


def _summary(samples: Sequence[Sample]) -> Table:
    table = Table(title="from first to last, in quarters of the time", title_justify="left")
    names = [each.name for each in fields(Sample)][1:]
    for column in ("until s", *names):
        table.add_column(column, justify="right")
    quarter = max(1, len(samples) // 4)
    for start in range(0, len(samples), quarter):
        part = list(islice(samples, start, start + quarter))
        means = [sum(getattr(sample, name) for sample in part) / len(part) for name in names]
        table.add_row(f"{part[-1].at_s:.0f}", *(f"{mean:,.0f}" for mean in means))
    return table


def _plot(samples: Sequence[Sample], rate: float, retention_s: float) -> str:
    at_s = [sample.at_s for sample in samples]

    def curve(title: str, unit: str, **named: str) -> Curve:
        lines = {label: [getattr(s, name) for s in samples] for label, name in named.items()}
        return Curve(title=title, unit=unit, lines=lines)

    return chart(
        f"{rate:,.0f} tasks/s asked for, kept for {retention_s:.0f} s",
        at_s,
        [
            curve(
                "tasks",
                "/s",
                submitted="submitted_per_s",
                completed="completed_per_s",
                removed="removed_per_s",
            ),
            curve("rows of the state", "", rows="rows"),
            curve("tasks", "", kept="kept", waiting="waiting"),
            curve("anonymous memory of a broker", "MB", memory="memory_mb"),
            curve("disk of a broker", "MB", state="state_mb", journal="journal_mb"),
            curve("removed later than the retention", "s", late="late_s"),
            curve("a lone submit, p99", "ms", lone="lone_p99_ms"),
        ],
    )


def _write(plot: Path, samples: Sequence[Sample], rate: float, retention_s: float) -> None:
    plot.write_text(_plot(samples, rate, retention_s))
    with plot.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)
