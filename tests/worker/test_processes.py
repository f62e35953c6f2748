"""Handler processes that die, and a parent that does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.worker.conftest import (
    SAMPLES,
    Facts,
    StartWorker,
    a_slow_task_in_a_backlog_of_fast_ones,
)
from tests.worker.fake_broker import FakeBroker


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_type", "error"),
    [
        ("segfault", "the handler process was ended by SIGSEGV"),
        ("exit", "the handler process exited with code 7"),
    ],
)
async def test_a_handler_that_takes_its_process_down_fails_and_the_worker_goes_on(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, task_type: str, error: str
) -> None:
    await start_worker()

    poison = await broker.submit(task_type, facts.payload, max_attempts=3)
    ids = await broker.submit("echo", count=50)

    [task] = await broker.until_ended(poison)
    assert (task.state, task.ends) == ("FAILED", ["failed"] * 3)
    assert task.error == error
    tasks = await broker.until_ended(ids)
    assert {each.state for each in tasks} == {"COMPLETED"}


@pytest.mark.slow
async def test_of_the_tasks_in_a_process_that_dies_only_those_that_had_started_fail(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker(concurrency=1)
    blocker, *behind = await a_slow_task_in_a_backlog_of_fast_ones(broker, facts)
    [pid] = run.pids()

    os.kill(pid, signal.SIGKILL)

    await broker.until(lambda: bool(broker.tasks[blocker].ends), "the running task's end")
    assert broker.tasks[blocker].ends == ["failed"]
    assert broker.tasks[blocker].errors[0] == (
        "the handler process was ended by SIGKILL (out of memory?)"
    )
    facts.path.with_name("facts.go").touch()
    for task in await broker.until_ended([blocker, *behind]):
        assert task.state == "COMPLETED"
    assert not any("failed" in broker.tasks[each].ends for each in behind)


@pytest.mark.slow
async def test_handler_processes_do_not_outlive_the_worker(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker(processes=2)
    await broker.until_ended(await broker.submit("echo"))
    pids = run.pids()

    assert await run.leave() == 0

    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


class Module:
    """A module of handlers, `changing`, that a test may break."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.mend()

    def mend(self) -> None:
        self._path.write_text(f"from {SAMPLES} import *\n")

    def spoil(self) -> None:
        self._path.write_text("raise OSError('not now')\n")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    return Module(tmp_path / "changing.py")


async def test_handlers_that_cannot_be_loaded_again_are_tried_again(
    broker: FakeBroker, start_worker: StartWorker, module: Module
) -> None:
    run = await start_worker(["changing"])
    await broker.until_ended(await broker.submit("pid"))
    [pid] = run.pids()

    module.spoil()
    os.kill(pid, signal.SIGKILL)
    await broker.until(lambda: not run.pids(), "no process")
    module.mend()

    [task] = await broker.until_ended(await broker.submit("pid"))
    assert task.result != str(pid).encode()


async def test_a_task_that_found_no_process_alive_is_given_back_by_a_worker_that_leaves(
    broker: FakeBroker, start_worker: StartWorker, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_worker.pool.pool.PATIENCE_S", 1000.0)
    # Without a process it makes no other claim: this one must not end before there is a task.
    monkeypatch.setattr("tq_worker.worker.WAIT_S", 1000.0)
    run = await start_worker(["changing"], deaf_after_s=3000.0)
    await broker.until(lambda: broker.claimants == 1, "a claim that waits")
    [pid] = run.pids()
    module.spoil()
    os.kill(pid, signal.SIGKILL)
    await broker.until(lambda: not run.pids(), "no process")
    ids = await broker.submit("pid")
    await broker.until_running(ids)

    assert await run.leave() == 0

    assert broker.tasks[ids[0]].ends == ["released"]
