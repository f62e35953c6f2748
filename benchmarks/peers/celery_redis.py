"""Celery with Redis as broker, and as result backend for the tasks whose end is awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import redis as redis_client

from benchmarks.peers import redis
from benchmarks.peers.processes import python_worker
from benchmarks.peers.session import PAYLOAD, TO_DONE_S, BlockingSession
from benchmarks.peers.workers import celery_app
from benchmarks.peers.workloads import DONE

TEXT = PAYLOAD.decode()


class CelerySession(BlockingSession):
    """An application that all threads share; each thread has a connection of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__()
        self._url = url
        self._folder = folder
        self._app: Any = celery_app.make(url)
        self._task: Any = self._app.tasks[celery_app.NAME]
        self._redis = redis_client.Redis.from_url(url)

    def submit(self, queue: str) -> None:
        self._task.apply_async((TEXT,), queue=queue, ignore_result=True)

    def to_done(self) -> None:
        ended = self._task.apply_async((TEXT,), queue=DONE, ignore_result=False)
        ended.get(timeout=TO_DONE_S)

    def worker(self, queue: str) -> AbstractContextManager[None]:
        arguments = ["celery", "-A", "benchmarks.peers.workers.celery_worker", "worker"]
        arguments += ["--queues", queue, "--loglevel", "WARNING"]
        return python_worker(self._folder, arguments, {redis.URL: self._url})

    async def remaining(self, queue: str) -> int:
        """Count the messages in the queue, and those that a worker has not acknowledged."""
        return int(self._redis.llen(queue)) + int(self._redis.hlen("unacked"))


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[CelerySession]:
    """Start Redis."""
    with redis.server(folder) as url:
        session = CelerySession(url, folder)
        try:
            yield session
        finally:
            session.close()
