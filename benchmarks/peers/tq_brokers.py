"""tq as its users have it: three brokers, the client that shares calls, `tq-worker`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.cluster import brokers
from benchmarks.peers.session import PAYLOAD, TO_DONE_S, AsyncSession
from benchmarks.peers.workloads import DONE
from benchmarks.work import worker
from tq_client import AsyncClient, TqError, task_spec

TYPE = "noop"


class BrokersSession(AsyncSession):
    """Three brokers and an AsyncClient."""

    def __init__(self, client: AsyncClient, addresses: list[str], folder: Path) -> None:
        self._client = client
        self._addresses = addresses
        self._folder = folder

    async def submit(self, queue: str) -> None:
        await self._client.submit(queue, TYPE, PAYLOAD)

    async def submit_many(self, queue: str, tasks: int) -> None:
        for outcome in await self._client.submit_many([task_spec(queue, TYPE, PAYLOAD)] * tasks):
            if isinstance(outcome, TqError):
                raise outcome

    async def to_done(self) -> None:
        task_id = await self._client.submit(DONE, TYPE, PAYLOAD)
        await self._client.wait(task_id, timeout_s=TO_DONE_S)

    @contextmanager
    def worker(self, queue: str) -> Iterator[None]:
        with worker(self._addresses, queue, self._folder / f"worker-{queue}.log"):
            yield

    async def remaining(self, queue: str) -> int:
        stats = await self._client.queue_stats(queue)
        return stats.pending + stats.running + stats.retrying + stats.scheduled


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[BrokersSession]:
    """Start three brokers."""
    async with brokers(folder) as cluster, AsyncClient(cluster.addresses) as client:
        yield BrokersSession(client, cluster.addresses, folder)
