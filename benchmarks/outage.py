"""How long writes are out when the leader is killed or falls silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from benchmarks.cluster import brokers, payload
from benchmarks.figures import Figure, Samples
from chaos.cluster.processes import ProcessCluster
from tq_client import AsyncClient

KILLS = 20
PAUSES = 10
WRITERS = 3
WITHIN_S = 20.0

Act = Callable[[ProcessCluster, str], None]
"""Does something to one broker."""


async def after_sigkill(data_dir: Path | None) -> list[Figure]:
    """Kill the leader with SIGKILL, and start it again once writes get through."""
    samples = await _measure(data_dir, KILLS, ProcessCluster.kill, ProcessCluster.restart)
    each = ", ".join(f"{value * 1e3:.0f}" for value in samples.values)
    return [
        Figure(
            name=f"outage: writes after SIGKILL of the leader, median of {KILLS}",
            value=samples.percentile(50) * 1e3,
            unit="ms",
            target=300,
            detail=f"in ms: {each}",
        ),
        Figure(
            name=f"outage: writes after SIGKILL of the leader, worst of {KILLS}",
            value=max(samples.values) * 1e3,
            unit="ms",
            target=1_000,
        ),
    ]


async def after_sigstop(data_dir: Path | None) -> list[Figure]:
    """Pause the leader with SIGSTOP, its connections open; resume it once writes get through."""
    samples = await _measure(data_dir, PAUSES, ProcessCluster.pause, ProcessCluster.resume)
    each = ", ".join(f"{value * 1e3:.0f}" for value in samples.values)
    return [
        Figure(
            name=f"silence: writes after SIGSTOP of the leader, worst of {PAUSES}",
            value=max(samples.values) * 1e3,
            unit="ms",
            target=1_000,
            detail=f"in ms: {each}",
        )
    ]


async def _measure(data_dir: Path | None, times: int, fault: Act, recover: Act) -> Samples:
    return Samples([length_s async for length_s in outages(data_dir, times, fault, recover)])


async def outages(
    data_dir: Path | None, times: int, fault: Act, recover: Act
) -> AsyncGenerator[float, None]:
    """Yield the seconds from each fault to the first acknowledgement of a write sent after it.

    Three writers submit one task after the other, each through a client of its own. The broker runs
    again and has caught up before the next fault.
    """
    async with brokers(data_dir) as cluster:
        writers = [_Writer(AsyncClient(cluster.addresses)) for _ in range(WRITERS)]
        writing = [asyncio.create_task(writer.write()) for writer in writers]
        try:
            for _ in range(times):
                leader = await cluster.await_leader(WITHIN_S)
                yield await _outage(cluster, leader.node_id, writers, fault)
                recover(cluster, leader.node_id)
                await cluster.await_caught_up(cluster.brokers, WITHIN_S)
        finally:
            for writer in writers:
                writer.stop()
            await asyncio.gather(*writing)
            for writer in writers:
                await writer.client.close()


async def _outage(
    cluster: ProcessCluster, node_id: str, writers: list[_Writer], fault: Act
) -> float:
    at_s = time.perf_counter()
    fault(cluster, node_id)
    firsts = [writer.since(at_s) for writer in writers]
    async with asyncio.timeout(WITHIN_S):
        done, _ = await asyncio.wait(firsts, return_when=asyncio.FIRST_COMPLETED)
    return min(first.result() for first in done) - at_s


class _Writer:
    """Submits one task after the other, and reports when one sent after a fault is acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._fault_s = 0.0
        self._acknowledged: asyncio.Future[float] | None = None
        self._stopped = False

    def since(self, fault_s: float) -> asyncio.Future[float]:
        """When the first write that is sent after ``fault_s`` is acknowledged."""
        self._fault_s = fault_s
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
            if waiting is not None and not waiting.done() and sent_s >= self._fault_s:
                waiting.set_result(time.perf_counter())
