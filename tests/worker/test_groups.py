"""What handlers start ends with them, however they end; the worker clears away what they leave."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from tests.patience import PATIENCE_S
from tests.worker.conftest import ROOT, Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tests.worker.test_command import Run, run

__all__ = ["run"]

UNSHARE = shutil.which("unshare") or "unshare"
FORKING = ("tests.worker.forking_handlers",)


async def started(facts: Facts) -> list[int]:
    """The pids that a handler has written: its process's, and those of what it has started."""
    async with asyncio.timeout(PATIENCE_S):
        while not (lines := [each for each in facts.lines() if each.startswith("pids ")]):  # noqa: ASYNC110 - written by another process
            await asyncio.sleep(0.005)
    return [int(pid) for pid in lines[-1].split()[1:]]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(pids: list[int]) -> None:
    """Wait for their end."""
    async with asyncio.timeout(PATIENCE_S):
        while any(map(lives, pids)):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_handler_of_its_own_process_that_stops_in_time_leaves_nothing_as_that_is_reported(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(FORKING)
    sent = await broker.submit("starts-solo", facts.payload, timeout_s=0.5, max_attempts=1)
    pids = await started(facts)

    await broker.until_ended(sent)

    await gone(pids)
    assert broker.tasks[sent[0]].ends == ["failed"]
    [again] = await broker.submit("starts-solo", facts.payload, timeout_s=0.5, max_attempts=1)
    await broker.until_ended([again])


@pytest.mark.parametrize("task_type", ["starts-stubborn-solo", "starts"])
async def test_a_handler_that_is_killed_takes_along_what_it_has_started(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, task_type: str
) -> None:
    await start_worker(FORKING)
    sent = await broker.submit(task_type, facts.payload, max_attempts=1)
    pids = await started(facts)

    os.kill(pids[0], signal.SIGKILL)

    await broker.until_ended(sent)
    await gone(pids)


@pytest.mark.slow
async def test_what_handlers_send_to_their_group_does_not_end_what_watches_it(
    broker: FakeBroker, run: Run, facts: Facts
) -> None:
    process = await run(handlers=FORKING[0])
    await broker.submit("signals-its-group")
    await broker.submit("starts", facts.payload)
    pids = await started(facts)

    process.kill()

    await gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("task_type", ["starts-stubborn-solo", "starts"])
async def test_a_worker_that_is_killed_takes_along_all_below_it(
    broker: FakeBroker, run: Run, facts: Facts, task_type: str
) -> None:
    process = await run(handlers=FORKING[0])
    await broker.submit(task_type, facts.payload)
    pids = await started(facts)

    process.kill()

    await gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("task_type", ["starts-stubborn-solo", "starts"])
async def test_what_a_handler_has_started_does_not_outlive_its_lease(
    broker: FakeBroker, run: Run, facts: Facts, task_type: str
) -> None:
    process = await run("--lease", "2s", handlers=FORKING[0])
    await broker.submit(task_type, facts.payload)
    pids = await started(facts)

    process.send_signal(signal.SIGSTOP)

    await gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("task_type", ["forks", "forks-async"])
@pytest.mark.parametrize(("how", "code"), [("return", b"0"), ("raise", b"1"), ("exit", b"7")])
async def test_of_a_handler_that_forks_the_copy_ends_and_reports_nothing(
    broker: FakeBroker,
    start_worker: StartWorker,
    facts: Facts,
    task_type: str,
    how: str,
    code: bytes,
) -> None:
    worker = await start_worker(FORKING)
    await broker.until(lambda: len(worker.pids()) == 2, "its processes")
    before = worker.pids()
    ids = await broker.submit(task_type, facts.payload, count=3, labels={"how": how})

    tasks = await broker.until_ended(ids)

    assert [(each.result, each.ends) for each in tasks] == [(code, ["completed"])] * 3
    assert len(broker.reports) == 3
    copies = [int(each.removeprefix("copy ")) for each in facts.lines()]
    assert len(copies) == 3
    await gone(copies)
    assert worker.pids() == before


def zombies_below(pid: int) -> list[int]:
    found = []
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # reaped since
            if each.status() == psutil.STATUS_ZOMBIE:
                found.append(each.pid)
    return found


def may_be_process_1() -> bool:
    tried = subprocess.run(
        [UNSHARE, "--user", "--map-root-user", "--pid", "--fork", "true"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not may_be_process_1(), reason="no user namespaces here"
)
async def test_a_worker_that_is_process_1_reaps_orphans_and_nobody_elses_children(
    broker: FakeBroker, facts: Facts
) -> None:
    worker = [sys.executable, "-m", "tq_worker", "run", "--handlers", FORKING[0], "--queues", "q"]
    process = await asyncio.create_subprocess_exec(
        *(UNSHARE, "--user", "--map-root-user", "--pid", "--fork", "--kill-child"),
        *(*worker, "--address", broker.address),
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        left = await broker.until_ended(await broker.submit("leaves-orphans", count=15))
        assert all(int(each.result) > 1 for each in left)
        await asyncio.sleep(0.5)  # they have ended by now: zombies, if no process reaps them
        killed = await broker.until_ended(await broker.submit("exit-code", count=10))
        assert {each.result for each in killed} == {b"-9"}
        async with asyncio.timeout(PATIENCE_S):
            while zombies_below(process.pid):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.1)
    finally:
        process.kill()
        await process.wait()
