"""Dramatiq with its Redis broker; results, for the tasks whose end is awaited, in Redis too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import redis as redis_client

from benchmarks.peers import redis
from benchmarks.peers.processes import python_worker
from benchmarks.peers.session import PAYLOAD, TO_DONE_S, BlockingSession
from benchmarks.peers.workers import dramatiq_app
from benchmarks.peers.workloads import DONE

TEXT = PAYLOAD.decode()


class DramatiqSession(BlockingSession):
    """A broker object that all threads share."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__()
        self._url = url
        self._folder = folder
        self._actors: Any
        _, self._actors = dramatiq_app.make(url)
        self._redis = redis_client.Redis.from_url(url)

    def submit(self, queue: str) -> None:
        self._actors[queue].send(TEXT)

    def to_done(self) -> None:
        message = self._actors[DONE].send(TEXT)
        message.get_result(block=True, timeout=int(TO_DONE_S * 1e3))

    def worker(self, queue: str) -> AbstractContextManager[None]:
        arguments = ["dramatiq", "benchmarks.peers.workers.dramatiq_worker:broker"]
        return python_worker(self._folder, [*arguments, "--queues", queue], {redis.URL: self._url})

    async def remaining(self, queue: str) -> int:
        """Count the messages that are kept: an ack removes one."""
        return int(self._redis.hlen(f"dramatiq:{queue}.msgs"))


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[DramatiqSession]:
    """Start Redis."""
    with redis.server(folder) as url:
        session = DramatiqSession(url, folder)
        try:
            yield session
        finally:
            session.close()
