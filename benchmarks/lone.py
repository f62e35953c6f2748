"""A lone task from submit to done: how long it takes, and what it costs all processes together.

One task at a time is the first thing that a newcomer tries. Each process wakes up for it with cold
caches, so its cost is measured in place, and not in a loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.cluster import brokers, payload, pids
from benchmarks.figures import Figure, Samples
from benchmarks.work import worker
from tq_client import AsyncClient

QUEUE: Final = "bench"
RATE: Final = 100.0
WARM_UP_S: Final = 3.0
MEASURE_S: Final = 15.0
IDLE_S: Final = 10.0
ALONE_TASKS: Final = 600


@dataclass(slots=True)
class Costs:
    """The processor time that groups of processes used, in seconds."""

    by_group: dict[str, list[int]]
    """The process ids of each group."""
    before: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Begin to count."""
        self.before = self._used()

    def since(self) -> dict[str, float]:
        """Return what each group used since ``start``."""
        return {group: used - self.before[group] for group, used in self._used().items()}

    def _used(self) -> dict[str, float]:
        return {group: sum(map(scheduled_s, each)) for group, each in self.by_group.items()}


async def to_done(data_dir: Path | None) -> list[Figure]:
    """Submit tasks and wait for the result of each: one after the other, then 100 a second.

    The latter start by the clock, so a slow answer delays no other task. The costs are those above
    an idle cluster with an idle worker.
    """
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        log_path = cluster.folder / "worker.log"
        with worker(cluster.addresses, QUEUE, log_path) as worker_pid:
            await _run(client, WARM_UP_S)
            costs = Costs(
                {
                    "brokers": pids(cluster),
                    "worker": [worker_pid, *children(worker_pid)],
                    "caller": [os.getpid()],
                }
            )
            costs.start()
            await asyncio.sleep(IDLE_S)
            idle = {group: used / IDLE_S for group, used in costs.since().items()}
            costs.start()
            alone, alone_s = await _run_alone(client)
            alone_ms = _above(idle, costs.since(), alone_s, len(alone.values))
            costs.start()
            submits, ends, took_s = await _run(client, MEASURE_S)
            each_ms = _above(idle, costs.since(), took_s, len(ends.values))
    tasks = len(ends.values)
    share = sum(idle[group] for group in ("brokers", "worker"))
    return [
        Figure(
            name="lone task: submit to done, one at a time, p50",
            value=alone.percentile(50) * 1e3,
            unit="ms",
            detail=f"{len(alone.values):,} tasks, p99 {alone.percentile(99) * 1e3:.1f} ms",
        ),
        Figure(
            name="lone task: processor time, one at a time",
            value=sum(alone_ms.values()),
            unit="ms",
            detail=_shares(alone_ms),
        ),
        Figure(
            name=f"lone task: submit to done at {RATE:g}/s, p50",
            value=ends.percentile(50) * 1e3,
            unit="ms",
            detail=f"{tasks:,} tasks, p99 {ends.percentile(99) * 1e3:.1f} ms; the submit alone p50 "
            f"{submits.percentile(50) * 1e3:.1f} ms, p99 {submits.percentile(99) * 1e3:.1f} ms",
        ),
        Figure(
            name=f"lone task: processor time at {RATE:g}/s",
            value=sum(each_ms.values()),
            unit="ms",
            detail=_shares(each_ms),
        ),
        Figure(
            name="idle: three brokers and a worker",
            value=share * 100,
            unit="% of a core",
            detail=f"brokers {idle['brokers'] * 100:.1f}, worker {idle['worker'] * 100:.1f}",
        ),
    ]


def _above(
    idle: Mapping[str, float], used: Mapping[str, float], took_s: float, tasks: int
) -> dict[str, float]:
    """Return what each group used for a task, in ms, beyond what it uses while idle."""
    return {group: (used[group] - idle[group] * took_s) / tasks * 1e3 for group in used}


def _shares(each_ms: Mapping[str, float]) -> str:
    return ", ".join(f"{group} {value:.1f}" for group, value in each_ms.items())


async def _run_alone(client: AsyncClient) -> tuple[Samples, float]:
    """Submit a task and wait for it, again and again; return how long each took, and the whole."""
    ends = Samples()
    begun_s = time.perf_counter()
    while len(ends.values) < ALONE_TASKS:
        sent_s = time.perf_counter()
        await client.wait(await client.submit(QUEUE, "noop", payload()), timeout_s=60)
        ends.add(time.perf_counter() - sent_s)
    return ends, time.perf_counter() - begun_s


async def _run(client: AsyncClient, for_s: float) -> tuple[Samples, Samples, float]:
    """Submit by the clock; return how long each submit and each task took, and the whole."""
    submits, ends = Samples(), Samples()
    body = payload()

    async def one() -> None:
        begun_s = time.perf_counter()
        task_id = await client.submit(QUEUE, "noop", body)
        submits.add(time.perf_counter() - begun_s)
        await client.wait(task_id, timeout_s=60)
        ends.add(time.perf_counter() - begun_s)

    begun_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(for_s * RATE)):
            await asyncio.sleep(begun_s + number / RATE - time.perf_counter())
            group.create_task(one())
    return submits, ends, time.perf_counter() - begun_s


def scheduled_s(pid: int) -> float:
    """Read the processor time of all threads of a process, to the nanosecond."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def children(pid: int) -> list[int]:
    """List the children of a process and theirs."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            found += [child, *children(child)]
    return found
