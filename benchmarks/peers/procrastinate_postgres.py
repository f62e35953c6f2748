"""Procrastinate: tasks are rows of PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.peers.processes import START_S, Servers, as_user, give, need, python_worker
from benchmarks.peers.redis import URL
from benchmarks.peers.session import PAYLOAD, POLL_S, AsyncSession
from benchmarks.peers.workers import procrastinate_app
from benchmarks.peers.workloads import DONE
from chaos.cluster.ports import free_addresses

USER = "postgres"
CONCURRENCY = 100
TEXT = PAYLOAD.decode()
ENDED = ("succeeded", "failed", "cancelled", "aborted")


class ProcrastinateSession(AsyncSession):
    """An application with a pool of connections."""

    def __init__(self, app: Any, watch: Any, url: str, folder: Path) -> None:  # noqa: ANN401  # untyped
        self._app = app
        self._watch = watch
        self._url = url
        self._folder = folder
        self._task = app.tasks[procrastinate_app.NAME]

    async def submit(self, queue: str) -> None:
        await self._task.configure(queue=queue).defer_async(payload=TEXT)

    async def submit_many(self, queue: str, tasks: int) -> None:
        each = {"payload": TEXT}
        await self._task.configure(queue=queue).batch_defer_async(*[each] * tasks)

    async def to_done(self) -> None:
        job_id = await self._task.configure(queue=DONE).defer_async(payload=TEXT)
        while True:
            status = await self._app.job_manager.get_job_status_async(job_id)
            if status.value in ENDED:
                return
            await asyncio.sleep(POLL_S)

    def worker(self, queue: str) -> AbstractContextManager[None]:
        arguments = ["procrastinate", "--app", "benchmarks.peers.workers.procrastinate_worker.app"]
        arguments += ["worker", "--queues", queue, "--concurrency", str(CONCURRENCY)]
        return python_worker(self._folder, arguments, {URL: self._url})

    async def remaining(self, queue: str) -> int:
        cursor = await self._watch.execute(
            "SELECT count(*) FROM procrastinate_jobs"
            " WHERE queue_name = %s AND status IN ('todo', 'doing')",
            (queue,),
        )
        (count,) = await cursor.fetchone()
        return int(count)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[ProcrastinateSession]:
    """Make a database, start its server and apply the schema."""
    give(folder, USER)
    (address,) = free_addresses(1)
    host, _, port = address.rpartition(":")
    data = folder / "data"
    make = [*as_user(USER), need("initdb"), "-D", str(data), "-U", "bench", "-A", "trust"]
    await asyncio.to_thread(
        subprocess.run, [*make, "-E", "UTF8"], cwd=folder, check=True, capture_output=True
    )
    settings = {
        "listen_addresses": host,
        "port": port,
        "unix_socket_directories": "",
        "max_connections": "200",
    }
    command = [*as_user(USER), need("postgres"), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    url = f"postgresql://bench@{address}/postgres"
    with Servers(folder) as servers:
        # SIGINT: a fast shutdown, which waits for no client.
        server = servers.start("postgres", command, ends_by=signal.SIGINT)
        servers.await_address(server, address)
        await _await_database(url)
        app = procrastinate_app.make(url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as watch:
                yield ProcrastinateSession(app, watch, url, folder)


async def _await_database(url: str) -> None:
    """Wait until the server takes connections: it listens a moment before."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(url)
            except psycopg.OperationalError:
                await asyncio.sleep(0.1)
            else:
                await connection.close()
                return
