"""Many tasks due at once, and the delay of a caller: `python -m benchmarks.housekeeping`.

Three cases, each on a cluster of its own. *due*: many tasks become due at one instant. *leases*:
many leases run out at one. *retired*: many finished tasks reach the end of their retention. All the
time one caller submits one task after the other: its latency is the delay that any caller has.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from rich.console import Console

from benchmarks import machine, report
from benchmarks.cluster import FILL_BATCH, brokers, cpu_s, payload, pids
from benchmarks.figures import Figure, Samples
from tq.v1.task_pb2 import TaskSpec
from tq.v1.worker_service_pb2 import ClaimRequest
from tq_client import AsyncClient, QueueStats, TqError, task_spec

QUEUE, LONE = "bench", "lone"
LONE_EVERY_S = 0.02
QUIET_S = 5.0
"""For how long the lone caller is measured before any task is due."""
POLL_S = 0.1
FILL_PER_S = 8_000
"""The minimum rate at which tasks are taken, to choose the time at which they become due."""
PURGE_PER_S = 4_000
LEASE_S = 30.0
WITHIN_S = 300.0


@dataclass(slots=True)
class Lone:
    """A caller that submits one task after the other, and how long each took."""

    client: AsyncClient
    quiet: Samples = field(default_factory=Samples)
    busy: Samples = field(default_factory=Samples)
    is_busy: bool = False

    async def run(self) -> None:
        """Submit until cancelled."""
        spec = task_spec(LONE, "noop", payload(), retention=timedelta(0))
        while True:
            begun_s = time.perf_counter()
            (outcome,) = await self.client.submit_many([spec])
            if isinstance(outcome, TqError):
                raise outcome
            (self.busy if self.is_busy else self.quiet).add(time.perf_counter() - begun_s)
            await asyncio.sleep(LONE_EVERY_S)


@dataclass(slots=True)
class Case:
    """A cluster on which tasks are about to become due."""

    client: AsyncClient
    callers: Lone
    pids: list[int]
    _cpu_s: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Note that tasks are due from now on."""
        self._cpu_s = [cpu_s(pid) for pid in self.pids]
        self.callers.is_busy = True

    async def fill(self, specs: Callable[[], TaskSpec], count: int) -> None:
        """Submit ``count`` tasks in large calls, two at a time."""
        batches = [
            [specs() for _ in range(min(FILL_BATCH, count - done))]
            for done in range(0, count, FILL_BATCH)
        ]
        for start in range(0, len(batches), 2):
            pair = [self.client.submit_many(batch) for batch in batches[start : start + 2]]
            for outcomes in await asyncio.gather(*pair):
                faults = [each for each in outcomes if isinstance(each, TqError)]
                if faults:
                    raise faults[0]

    async def until(self, fact: Callable[[QueueStats], bool], what: str) -> float:
        """Poll until the fact holds for the queue; return the instant, by the wall clock."""
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            stats = await self.client.queue_stats(QUEUE)
            if fact(stats):
                return time.time()
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{what} did not come; the queue:\n{stats}")
            await asyncio.sleep(POLL_S)

    def figures(self, name: str, took_s: float, target_s: float | None, count: int) -> list[Figure]:
        """The figures of the work and of the lone caller."""
        quiet, busy = self.callers.quiet, self.callers.busy
        spent_s = sorted(
            cpu_s(pid) - began for pid, began in zip(self.pids, self._cpu_s, strict=True)
        )
        cpu = ", ".join(f"{each:.1f}" for each in reversed(spent_s))
        return [
            Figure(
                name=f"{name}: done",
                value=took_s,
                unit="s",
                target=target_s,
                detail=f"{count:,}: {count / max(took_s, 1e-3):,.0f}/s;"
                f" processor of the brokers: {cpu} s",
            ),
            Figure(
                name=f"{name}: a lone submit meanwhile, p99",
                value=busy.percentile(99) * 1e3,
                unit="ms",
                target=100,
                detail=f"p50 {busy.percentile(50) * 1e3:.1f} ms, longest"
                f" {max(busy.values) * 1e3:.0f} ms, of {len(busy.values)}; before it p50"
                f" {quiet.percentile(50) * 1e3:.1f} ms, p99 {quiet.percentile(99) * 1e3:.1f} ms",
            ),
        ]


@asynccontextmanager
async def case(data_dir: Path | None) -> AsyncIterator[Case]:
    """Three brokers, and a lone caller that has been measured for a while."""
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        callers = Lone(client)
        running = asyncio.create_task(callers.run())
        try:
            await asyncio.sleep(QUIET_S)
            yield Case(client, callers, pids(cluster))
            if running.done():
                running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def due(data_dir: Path | None, tasks: int) -> list[Figure]:
    """Measure tasks that become due at one instant."""
    async with case(data_dir) as this:
        at = datetime.now(UTC) + timedelta(seconds=10 + tasks / FILL_PER_S)
        await this.fill(lambda: task_spec(QUEUE, "noop", payload(), run_at=at), tasks)
        left_s = at.timestamp() - time.time()
        if left_s < 0:
            raise TimeoutError(f"the tasks were due {-left_s:.1f} s before all were submitted")
        await asyncio.sleep(left_s)
        this.begin()
        done_s = await this.until(lambda stats: stats.pending >= tasks, "all pending")
        return this.figures(f"{tasks:,} due at once", done_s - at.timestamp(), 10, tasks)


async def leases(data_dir: Path | None, tasks: int) -> list[Figure]:
    """Measure leases of a silent worker that run out at about one instant."""
    async with case(data_dir) as this:
        await this.fill(lambda: task_spec(QUEUE, "noop", payload()), tasks)
        lease = Duration()
        lease.FromTimedelta(timedelta(seconds=LEASE_S))
        held, last_s = 0, time.time()
        while held < tasks:
            answer = await this.client.claim(
                ClaimRequest(worker_id="silent", queues=[QUEUE], max_tasks=1_000, lease=lease)
            )
            held += len(answer.reply.tasks)
            last_s = time.time() + LEASE_S
        await this.until(lambda stats: stats.running < tasks, "the first to end")
        this.begin()
        done_s = await this.until(lambda stats: stats.running == 0, "all ended")
        return this.figures(f"{tasks:,} leases run out", max(0.0, done_s - last_s), 5, tasks)


async def retired(data_dir: Path | None, tasks: int) -> list[Figure]:
    """Measure how much longer than their retention finished tasks are kept."""
    kept = timedelta(seconds=20 + tasks / PURGE_PER_S)
    async with case(data_dir) as this:
        await this.fill(lambda: task_spec(QUEUE, "noop", payload(), retention=kept), tasks)
        first_s = time.time()
        async for _ in this.client.purge_queue(QUEUE, max_tasks=1_000):
            pass
        last_s = time.time()
        ended = f"they ended within {last_s - first_s:.0f} s"
        await this.until(lambda stats: stats.cancelled < tasks, "the first to go")
        this.begin()
        done_s = await this.until(lambda stats: stats.cancelled == 0, "all gone")
        late_s = done_s - last_s - kept.total_seconds()
        figures = this.figures(
            f"{tasks:,} retired", done_s - first_s - kept.total_seconds(), None, tasks
        )
        return [
            *figures,
            Figure(
                name=f"{tasks:,} retired: the last is late by",
                value=max(0.0, late_s),
                unit="s",
                target=10,
                detail=ended,
            ),
        ]


CASES = {"due": (due, 100_000), "leases": (leases, 40_000), "retired": (retired, 1_000_000)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and fail if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.housekeeping", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CASE", choices=[*CASES, []], default=[])
    parser.add_argument("--tasks", type=int, help="how many, in place of each case's own number")
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    chosen = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    described = machine.describe(chosen.data_dir, "python -m benchmarks.housekeeping")
    bystanders = machine.Bystanders()
    figures: list[Figure] = []
    for name in chosen.names or CASES:
        measure, tasks = CASES[name]
        figures += asyncio.run(measure(chosen.data_dir, chosen.tasks or tasks))
    described["other programs"] = f"took {bystanders.share():.0%} of the cores meanwhile"
    report.print_table(console, described, figures)
    missed = [figure.name for figure in figures if figure.met is False]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
