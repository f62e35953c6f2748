"""Submitting: many callers at once, and one alone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.cluster import brokers, payload
from benchmarks.figures import Figure, Samples
from tq_client import AsyncClient

WARM_UP_S = 2.0
MEASURE_S = 10.0
CALLERS = 512
LONE_SUBMITS = 2_000


async def throughput(data_dir: Path | None) -> list[Figure]:
    """Measure 512 callers of one client, each submitting one task after the other."""
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        await _run_callers(client, WARM_UP_S)
        samples, elapsed_s = await _run_callers(client, MEASURE_S)
    rate = len(samples.values) / elapsed_s
    p50_ms, p99_ms = samples.percentile(50) * 1e3, samples.percentile(99) * 1e3
    return [
        Figure(
            name=f"submit: {CALLERS} concurrent callers, coalesced",
            value=rate,
            unit="tasks/s",
            target=10_000,
            more_is_better=True,
            detail=f"each caller waits p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms",
        )
    ]


async def alone(data_dir: Path | None) -> list[Figure]:
    """Measure one caller with one submit at a time and no other load."""
    samples = Samples()
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        for number in range(LONE_SUBMITS + 200):
            begun_s = time.perf_counter()
            await client.submit("bench", "noop", payload())
            if number >= 200:
                samples.add(time.perf_counter() - begun_s)
    return [
        Figure(
            name="submit: one alone, p50",
            value=samples.percentile(50) * 1e3,
            unit="ms",
            target=3,
            detail=f"{LONE_SUBMITS} submits after 200 to warm up",
        ),
        Figure(name="submit: one alone, p99", value=samples.percentile(99) * 1e3, unit="ms"),
    ]


async def _run_callers(client: AsyncClient, for_s: float) -> tuple[Samples, float]:
    """Let every caller submit until ``for_s`` have passed; return the latencies."""
    samples = Samples()
    body = payload()
    begun_s = time.perf_counter()

    async def caller() -> None:
        while (sent_s := time.perf_counter()) - begun_s < for_s:
            await client.submit("bench", "noop", body)
            samples.add(time.perf_counter() - sent_s)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return samples, time.perf_counter() - begun_s
