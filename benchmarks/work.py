"""Claiming, running and completing through `tq-worker`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cluster import brokers, fill
from benchmarks.figures import Figure
from tq_client import AsyncClient

TASKS = 60_000
CONCURRENCY = 500
ROOT = Path(__file__).resolve().parents[1]


async def throughput(data_dir: Path | None) -> list[Figure]:
    """Completions a second by one worker, of tasks that were all submitted beforehand.

    The brokers count between the first tenth of the tasks and the last: the worker's start and its
    idle time at the end are excluded.
    """
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        await fill(client, "bench", "noop", TASKS)
        with worker(cluster.addresses, "bench", cluster.folder / "worker.log"):
            begin_s, begin = await _await_completed(client, TASKS // 10)
            end_s, end = await _await_completed(client, TASKS * 9 // 10)
            await _await_completed(client, TASKS)
    return [
        Figure(
            name="work: claimed, run (no-op) and completed by tq-worker",
            value=(end - begin) / (end_s - begin_s),
            unit="tasks/s",
            target=4_000,
            more_is_better=True,
            detail=f"{end - begin:,} of {TASKS:,} tasks, one process, concurrency {CONCURRENCY}",
        )
    ]


async def _await_completed(client: AsyncClient, count: int) -> tuple[float, int]:
    """Poll until ``count`` are completed; return the instant and the number completed by then."""
    deadline_s = time.perf_counter() + 120
    while True:
        stats = await client.queue_stats("bench")
        now_s = time.perf_counter()
        if stats.completed >= count:
            return now_s, stats.completed
        if now_s > deadline_s:
            raise TimeoutError(f"{count:,} completions did not come; the queue:\n{stats}")
        await asyncio.sleep(0.1)


@contextmanager
def worker(
    addresses: list[str],
    queue: str,
    log_path: Path,
    *,
    python: str = sys.executable,
    checkout: Path = ROOT,
) -> Iterator[int]:
    """Run `tq-worker` on a queue, with handlers that do nothing; yield its process id.

    ``python`` and ``checkout``: the interpreter and the folder of another checkout's worker.
    """
    command = [
        *(python, "-m", "tq_worker", "run", "--handlers", "benchmarks.handlers"),
        *("--queues", queue, "--concurrency", str(CONCURRENCY)),
    ]
    environment = {**os.environ, "TQ_ADDRESS": ",".join(addresses)}
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
    try:
        yield process.pid
    except BaseException:
        sys.stderr.write(log_path.read_text(errors="replace")[-4_000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=70)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
