"""How long no write gets through when the leader is killed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.cluster import brokers, payload
from benchmarks.figures import Figure, Samples
from chaos.processes import ProcessCluster
from tq_client import AsyncClient

KILLS = 20
WRITERS = 3
WITHIN_S = 20.0


async def after_sigkill(data_dir: Path | None) -> list[Figure]:
    """From SIGKILL of the leader to the first acknowledgement of a write sent after it.

    Three writers write. Each writer submits one task after the other through a client of its own;
    the killed broker is started again and has caught up before the next kill.
    """
    samples = Samples()
    async with brokers(data_dir) as cluster:
        writers = [_Writer(AsyncClient(cluster.addresses)) for _ in range(WRITERS)]
        writing = [asyncio.create_task(writer.write()) for writer in writers]
        try:
            for _ in range(KILLS):
                samples.add(await _kill_leader(cluster, writers))
        finally:
            for writer in writers:
                writer.stop()
            await asyncio.gather(*writing)
            for writer in writers:
                await writer.client.close()
    each = ", ".join(f"{value * 1e3:.0f}" for value in samples.values)
    return [
        Figure(
            name=f"outage of writes after SIGKILL of the leader, median of {KILLS}",
            value=samples.percentile(50) * 1e3,
            unit="ms",
            target=300,
            detail=f"in ms: {each}",
        ),
        Figure(
            name=f"outage of writes after SIGKILL of the leader, worst of {KILLS}",
            value=max(samples.values) * 1e3,
            unit="ms",
            target=1_000,
        ),
    ]


class _Writer:
    """Submits one task after the other and tells when one sent after a kill is acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._killed_s = 0.0
        self._acknowledged: asyncio.Future[float] | None = None
        self._stopped = False

    def since(self, killed_s: float) -> asyncio.Future[float]:
        """When the first write that is sent after ``killed_s`` is acknowledged."""
        self._killed_s = killed_s
        self._acknowledged = asyncio.get_running_loop().create_future()
        return self._acknowledged

    def stop(self) -> None:
        self._stopped = True

    async def write(self) -> None:
        body = payload()
        while not self._stopped:
            sent_s = time.perf_counter()
            await self.client.submit("bench", "noop", body)
            waiting = self._acknowledged
            if waiting is not None and not waiting.done() and sent_s >= self._killed_s:
                waiting.set_result(time.perf_counter())


async def _kill_leader(cluster: ProcessCluster, writers: list[_Writer]) -> float:
    """Kill the leader; how long writes were out. Everything is well again when this returns."""
    leader = await cluster.await_leader(WITHIN_S)
    await cluster.await_caught_up(cluster.brokers, WITHIN_S)
    killed_s = time.perf_counter()
    cluster.kill(leader.node_id)
    firsts = [writer.since(killed_s) for writer in writers]
    async with asyncio.timeout(WITHIN_S):
        done, _ = await asyncio.wait(firsts, return_when=asyncio.FIRST_COMPLETED)
    outage_s = min(first.result() for first in done) - killed_s
    cluster.restart(leader.node_id)
    await cluster.await_caught_up(cluster.brokers, WITHIN_S)
    return outage_s
