"""The anonymous memory of a broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.cluster import PAYLOAD_BYTES, anonymous_bytes, brokers, fill, pids
from benchmarks.figures import Figure
from tq_client import AsyncClient

TASKS = 100_000
SETTLE_S = 3.0


async def pending(data_dir: Path | None) -> list[Figure]:
    """RssAnon of the broker that has most, empty and with 100,000 pending tasks."""
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        empty = max(anonymous_bytes(pid) for pid in pids(cluster))
        await fill(client, "bench", "noop", TASKS)
        just_filled = max(anonymous_bytes(pid) for pid in pids(cluster))
        await asyncio.sleep(SETTLE_S)
        settled = [anonymous_bytes(pid) for pid in pids(cluster)]
        stats = await client.queue_stats("bench")
    if stats.pending != TASKS:
        raise AssertionError(f"{stats.pending:,} tasks are pending, not {TASKS:,}")
    each = ", ".join(f"{size / 1e6:.0f}" for size in settled)
    return [
        Figure(
            name=f"memory: a broker with {TASKS:,} pending tasks of {PAYLOAD_BYTES} B, anonymous",
            value=max(*settled, just_filled) / 1e6,
            unit="MB",
            target=200,
            detail=f"settled {each} MB; empty {empty / 1e6:.0f} MB",
        )
    ]
