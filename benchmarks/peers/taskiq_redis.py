"""taskiq with Redis streams; results, for the tasks whose end is awaited, in Redis too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.peers import redis
from benchmarks.peers.processes import python_worker
from benchmarks.peers.session import PAYLOAD, POLL_S, TO_DONE_S, AsyncSession
from benchmarks.peers.workers import taskiq_app
from benchmarks.peers.workloads import DONE

TEXT = PAYLOAD.decode()


class TaskiqSession(AsyncSession):
    """A broker object for each queue."""

    calls_of_many = False

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.brokers: dict[str, Any] = {}
        self._tasks: dict[str, Any] = {}
        self._redis = Redis.from_url(url)

    async def open(self) -> None:
        """Make the streams and their groups."""
        for queue in taskiq_app.QUEUES:
            self.brokers[queue], self._tasks[queue] = taskiq_app.make(self._url, queue)
            await self.brokers[queue].startup()

    async def close(self) -> None:
        """Close the connections."""
        for broker in self.brokers.values():
            await broker.shutdown()
        await self._redis.aclose()

    async def submit(self, queue: str) -> None:
        await self._tasks[queue].kiq(TEXT)

    async def to_done(self) -> None:
        task = await self._tasks[DONE].kiq(TEXT)
        await task.wait_result(check_interval=POLL_S, timeout=TO_DONE_S)

    def worker(self, queue: str) -> AbstractContextManager[None]:
        arguments = ["taskiq", "worker", "benchmarks.peers.workers.taskiq_worker:broker"]
        environment = {redis.URL: self._url, taskiq_app.QUEUE: queue}
        return python_worker(self._folder, [*arguments, "--log-level", "WARNING"], environment)

    async def remaining(self, queue: str) -> int:
        """Count the entries that the group was not given yet, and those it did not acknowledge."""
        (group,) = await self._redis.xinfo_groups(queue)
        return int(group["lag"]) + int(group["pending"])


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[TaskiqSession]:
    """Start Redis."""
    with redis.server(folder) as url:
        session = TaskiqSession(url, folder)
        try:
            await session.open()
            yield session
        finally:
            await session.close()
