"""A fake broker, real workers with real handler processes, and facts that handlers record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.worker.fake_broker import FakeBroker
from tq_client import AsyncClient
from tq_worker.broker.connection import Link
from tq_worker.telemetry.tracing import Telling
from tq_worker.worker import Leaving, Worker, WorkerOptions

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = "tq_worker.handlers"
SAMPLES = "tests.worker.sample_handlers"
SOLO = "tests.worker.solo_handlers"

RunningWorker = Callable[..., "asyncio.Task[int]"]


@pytest.fixture(autouse=True)
def _handler_processes_find_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    fake = FakeBroker()
    await fake.start()
    yield fake
    await fake.stop()


class Facts:
    """Lines that handlers wrote, in a file they share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    @property
    def payload(self) -> bytes:
        """The payload of the sample handlers: the path of the facts file."""
        return str(self.path).encode()

    async def until(self, line: str, count: int = 1, within_s: float = PATIENCE_S) -> None:
        """Wait until ``line`` was written ``count`` times."""
        try:
            async with asyncio.timeout(within_s):
                while self.lines().count(line) < count:  # noqa: ASYNC110 - written by another process
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(
                f"not written within {within_s:g} s: {line!r}; there is: {self.lines()}"
            ) from None


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return Facts(tmp_path / "facts")


async def a_slow_task_in_a_backlog_of_fast_ones(broker: FakeBroker, facts: Facts) -> list[str]:
    """Let a worker with one slot hold tasks ahead behind a slow one.

    Returns the slow task, which runs, and the tasks that wait behind it.
    """
    await broker.submit("echo", count=3000)
    [slow] = await broker.submit("until-file", facts.payload)
    behind = await broker.submit("echo", count=5)
    await facts.until("started")
    await broker.until_running(behind)
    return [slow, *behind]


class WorkerRun:
    """A worker that runs in this process."""

    def __init__(self, worker: Worker, task: asyncio.Task[int]) -> None:
        self.worker = worker
        self.task = task

    async def leave(self, how: Leaving = Leaving.DRAIN) -> int:
        """Make the worker leave; return how many reports it could not deliver."""
        self.worker.leave(how)
        return await self.task

    def pids(self) -> list[int]:
        """The ids of its handler processes."""
        return [process.pid for process in self.worker._pool.processes()]


StartWorker = Callable[..., Awaitable[WorkerRun]]


@pytest.fixture
async def start_worker(broker: FakeBroker) -> AsyncIterator[StartWorker]:
    running: list[WorkerRun] = []
    links: list[Link] = []

    async def start(
        modules: Sequence[str] = (SHIPPED, SAMPLES),
        *,
        queues: Sequence[str] = ("q",),
        concurrency: int = 4,
        processes: int = 1,
        lease_s: float = 30.0,
        drain_timeout_s: float = 60.0,
        deaf_after_s: float = 60.0,
        unfit_for_s: float = 600.0,
        process_slots: int = 1,
        limits: Mapping[str, int] | None = None,
        tasks_max: int | None = None,
        memory_bytes_max: int | None = None,
        reload: bool = False,
        metrics_listen: tuple[str, int] | None = None,
        telling: Telling | None = None,
    ) -> WorkerRun:
        link = Link(lambda: AsyncClient([broker.address]))
        links.append(link)
        options = WorkerOptions(
            worker_id=f"w{len(running) + 1}",
            modules=modules,
            queues=queues,
            concurrency=concurrency,
            processes=processes,
            lease_s=lease_s,
            drain_timeout_s=drain_timeout_s,
            deaf_after_s=deaf_after_s,
            unfit_for_s=unfit_for_s,
            process_slots=process_slots,
            limits=limits or {},
            tasks_max=tasks_max,
            memory_bytes_max=memory_bytes_max,
            reload=reload,
            metrics_listen=metrics_listen,
            telling=telling or Telling(),
        )
        worker = Worker(options, link, link.reconnect)
        run = WorkerRun(worker, asyncio.ensure_future(worker.run()))
        running.append(run)
        return run

    yield start
    for run in running:
        run.worker.leave(Leaving.AT_ONCE)
    await asyncio.gather(*(run.task for run in running), return_exceptions=True)
    for link in links:
        await link.close()
