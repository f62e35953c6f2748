"""How long a writer pauses when leadership is handed over by command."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.cluster import brokers, payload
from benchmarks.figures import Figure, Samples
from tq_client import AsyncClient

HANDOVERS = 20
WRITERS = 3
BETWEEN_S = 1.0
WITHIN_S = 20.0


async def by_command(data_dir: Path | None) -> list[Figure]:
    """Hand over 20 times while three writers submit one task after the other; none may fail."""
    pauses, took = Samples(), Samples()
    async with brokers(data_dir) as cluster:
        clients = [AsyncClient(cluster.addresses) for _ in range(WRITERS)]
        longest: dict[int, float] = {}
        stopped = asyncio.Event()

        async def write(number: int, client: AsyncClient) -> None:
            while not stopped.is_set():
                begun_s = time.perf_counter()
                await client.submit("bench", "noop", payload(), timeout_s=WITHIN_S)
                spent_s = time.perf_counter() - begun_s
                longest[number] = max(longest.get(number, 0.0), spent_s)

        writing = [asyncio.create_task(write(*each)) for each in enumerate(clients)]
        try:
            for _ in range(HANDOVERS):
                leader = await cluster.await_leader(WITHIN_S)
                await cluster.await_caught_up(cluster.brokers, WITHIN_S)
                longest.clear()
                begun_s = time.perf_counter()
                await clients[0].transfer_leadership()
                took.add(time.perf_counter() - begun_s)
                await cluster.await_leader(WITHIN_S, other_than=leader.node_id)
                await asyncio.sleep(BETWEEN_S)
                for pause_s in longest.values():
                    pauses.add(pause_s)
        finally:
            stopped.set()
            await asyncio.gather(*writing)
            for client in clients:
                await client.close()
    each = ", ".join(f"{value * 1e3:.0f}" for value in pauses.values)
    return [
        Figure(
            name=f"handover: a writer's longest pause, median of {HANDOVERS} by {WRITERS} writers",
            value=pauses.percentile(50) * 1e3,
            unit="ms",
            target=200,
            detail=f"worst {max(pauses.values) * 1e3:.0f} ms; no write failed; in ms: {each}",
        ),
        Figure(
            name="handover: from the command to its answer, median",
            value=took.percentile(50) * 1e3,
            unit="ms",
        ),
    ]
