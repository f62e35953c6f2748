"""Whether a leader stays the leader under full load, with slow fsyncs thrown in.

    python -m benchmarks.elections --minutes 60

Three brokers, submitters that keep the worker busy, one worker that claims as fast as it can. One
journal or state fsync in fifty takes 300 ms, on every broker, all the time. There is no other
fault: every change of the term is an unnecessary election. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from benchmarks.cluster import payload
from benchmarks.work import worker
from chaos.cluster.processes import NodeStatus, ProcessCluster
from chaos.nemeses.slow_fsync import DELAY_MS, SlowFsyncs
from tq_client import AsyncClient

NODES = ("n1", "n2", "n3")
ONE_IN = 50
QUEUE = "bench"
CALLERS = 256
WAITING_MAX = 5_000
"""Submitters pause while so many tasks wait, to keep the worker busy and the state small."""
RETENTION = timedelta(seconds=1)
LOOK_EVERY_S = 0.5
TELL_EVERY_S = 60.0
WITHIN_S = 30.0


@dataclass(slots=True)
class _Load:
    """The state that the submitters share."""

    waiting: int = 0
    submitted: int = 0
    stopped: bool = False


async def run(minutes: float, data_dir: Path | None, console: Console) -> int:
    """Run the benchmark; return the number of elections after the first."""
    slow = SlowFsyncs()
    with tempfile.TemporaryDirectory(prefix="tq-elections-", dir=data_dir) as folder:
        await slow.prepare(Path(folder), NODES)
        cluster = ProcessCluster(Path(folder), nodes=len(NODES), setup=slow.setup)
        async with cluster, AsyncClient(cluster.addresses) as client:
            with worker(cluster.addresses, QUEUE, Path(folder) / "worker.log"):
                load = _Load()
                submitters = [asyncio.create_task(_submit(client, load)) for _ in range(CALLERS)]
                try:
                    return await _watch(cluster, client, load, slow, minutes, console)
                finally:
                    load.stopped = True
                    await asyncio.gather(*submitters)


async def _submit(client: AsyncClient, load: _Load) -> None:
    body = payload()
    while not load.stopped:
        if load.waiting > WAITING_MAX:
            await asyncio.sleep(LOOK_EVERY_S / 5)
            continue
        await client.submit(QUEUE, "noop", body, retention=RETENTION)
        load.submitted += 1


async def _watch(
    cluster: ProcessCluster,
    client: AsyncClient,
    load: _Load,
    slow: SlowFsyncs,
    minutes: float,
    console: Console,
) -> int:
    leader = await cluster.await_leader(WITHIN_S)
    slow.slow_down(DELAY_MS, ONE_IN)
    began_s = told_s = time.monotonic()
    first_term = term = leader.term
    while (now_s := time.monotonic()) - began_s < minutes * 60:
        await asyncio.sleep(LOOK_EVERY_S)
        load.waiting = (await client.queue_stats(QUEUE)).pending
        leader = await cluster.await_leader(WITHIN_S)
        if leader.term != term:
            console.print(f"{now_s - began_s:6.0f} s  {leader.node_id} leads in term {leader.term}")
            term = leader.term
        if now_s - told_s >= TELL_EVERY_S:
            told_s = now_s
            console.print(await _told(cluster, load, now_s - began_s, leader))
    stats = await client.queue_stats(QUEUE)
    console.print(
        f"{minutes:g} minutes, {load.submitted:,} tasks submitted, {stats.totals.completed:,}"
        f" completed ({stats.totals.completed / (minutes * 60):,.0f}/s);"
        f" elections after the first: {term - first_term}"
    )
    return term - first_term


async def _told(cluster: ProcessCluster, load: _Load, elapsed_s: float, leader: NodeStatus) -> str:
    statuses = (await cluster.statuses()).values()
    slowest_ms = [
        f"{status.fsync_p50.ToTimedelta().total_seconds() * 1e3:.1f}/"
        f"{status.fsync_p99.ToTimedelta().total_seconds() * 1e3:.0f}"
        for status in statuses
        if isinstance(status, NodeStatus)
    ]
    return (
        f"{elapsed_s:6.0f} s  {leader.node_id} leads in term {leader.term};"
        f" submitted {load.submitted:>9,}, waiting {load.waiting:>6,};"
        f" fsync p50/p99 in ms: {', '.join(slowest_ms)}"
    )


def main() -> None:
    """Run the benchmark; exit code 1 if there was an unnecessary election."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.elections",
        description="Count elections under full load with slow fsyncs thrown in.",
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--data-dir", type=Path, help="where the brokers keep their data")
    arguments = parser.parse_args()
    if (lack := SlowFsyncs().needs()) is not None:
        sys.exit(f"python -m benchmarks.elections cannot run here: {lack}")
    elections = asyncio.run(run(arguments.minutes, arguments.data_dir, Console(width=140)))
    sys.exit(1 if elections else 0)


if __name__ == "__main__":
    main()
