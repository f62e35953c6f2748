"""A release with a new type and a new parameter, while workers of the one before still run."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from chaos.cluster.processes import ProcessCluster
from tests.cluster.fixtures import cluster
from tests.patience import PATIENCE_S
from tests.worker.conftest import ROOT
from tq_client import AsyncClient, TaskState
from tq_client.enums import FailureReason

__all__ = ["cluster"]

Process = asyncio.subprocess.Process

BEFORE = """
from tq_worker import task

@task("resize", queue="deploy")
def resize(path: str) -> str:
    return f"before {path}"
"""
AFTER = """
from tq_worker import task

@task("resize", queue="deploy")
def resize(path: str, size: int = 100) -> str:
    return f"after {path} {size}"

@task("crop", queue="deploy")
def crop(path: str) -> str:
    return f"cropped {path}"
"""
StartVersion = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start_version(cluster: ProcessCluster, tmp_path: Path) -> AsyncIterator[StartVersion]:
    """Start a worker with this code, and kill every process that runs at the end."""
    processes: list[Process] = []

    async def start(code: str, *options: str) -> Process:
        folder = tmp_path / f"version-{len(processes)}"
        folder.mkdir()
        (folder / "deployed.py").write_text(code)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tq_worker", "run", "--handlers", "deployed"),
            *("--queues", "deploy", "--address", ",".join(cluster.addresses), *options),
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
            stderr=asyncio.subprocess.DEVNULL,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(
    client: AsyncClient, ids: list[str], state: TaskState, within_s: float = PATIENCE_S
) -> None:
    """Wait until all of these tasks stand so."""
    async with asyncio.timeout(within_s):
        for task_id in ids:
            while (await client.get(task_id)).state != state:  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.05)


@pytest.mark.cluster
async def test_a_new_type_and_a_new_parameter_wait_for_the_workers_that_know_them(
    cluster: ProcessCluster, start_version: StartVersion
) -> None:
    await cluster.await_leader(within_s=PATIENCE_S)
    async with AsyncClient(cluster.addresses) as client:
        old = await start_version(BEFORE, "--unfit-for", "60s")
        known = await client.submit("deploy", "resize", b'{"path":"a"}')
        await client.wait(known)

        fits = [await client.submit("deploy", "resize", b'{"path":"b"}') for _ in range(5)]
        sized = [
            await client.submit("deploy", "resize", b'{"path":"c","size":7}', retries=0)
            for _ in range(5)
        ]
        crops = [
            await client.submit("deploy", "crop", b'{"path":"d"}', retries=0) for _ in range(5)
        ]
        await until(client, fits, TaskState.COMPLETED)
        await until(client, sized, TaskState.RETRYING)
        await start_version(AFTER)
        old.terminate()
        await until(client, [*sized, *crops], TaskState.COMPLETED)

        results = {(await client.get(each)).result for each in sized}
        assert results == {b'"after c 7"'}
        for each in crops:
            assert [attempt.number for attempt in (await client.get(each)).attempts] == [1]
        assert [each async for each in client.dead_letters()] == []


@pytest.mark.cluster
async def test_what_no_version_can_read_is_a_dead_letter_after_a_while(
    cluster: ProcessCluster, start_version: StartVersion
) -> None:
    await cluster.await_leader(within_s=PATIENCE_S)
    async with AsyncClient(cluster.addresses) as client:
        await start_version(AFTER, "--unfit-for", "2s")
        wrong = await client.submit("deploy", "resize", b'{"path":7,"colour":1}')

        task = await client.wait(wrong, timeout_s=60)

    assert task.state == TaskState.FAILED
    assert task.failure_reason == FailureReason.PERMANENT_ERROR
    assert task.last_error.startswith("UnfitTaskError: the payload does not fit the handler")
    assert len(task.attempts) > 2
