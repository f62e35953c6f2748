"""New code for a worker that runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.worker.conftest import SAMPLES, Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tq_worker.pool.reload import Changes

ANSWERS = """
from tq_worker import task
import helped

@task("answer")
async def answer(payload, context):
    return helped.ANSWER
"""


class Code:
    """A package of handlers that a test edits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("helped", "ANSWER = b'old'\n")
        self.write("edited", ANSWERS)

    def write(self, name: str, text: str) -> None:
        """Write it as an editor does: whole, under another name first."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.replace(self.folder / f"{name}.py")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return Code(tmp_path)


async def answer(broker: FakeBroker) -> bytes:
    [task] = await broker.until_ended(await broker.submit("answer"))
    return task.result


@pytest.mark.slow
async def test_a_change_in_what_handlers_import_is_used_while_running_tasks_finish(
    broker: FakeBroker, start_worker: StartWorker, code: Code, facts: Facts
) -> None:
    run = await start_worker(["edited", SAMPLES], reload=True)
    assert await answer(broker) == b"old"
    running = await broker.submit("until-file", facts.payload)
    await facts.until("started")
    before = run.pids()

    code.write("helped", "ANSWER = b'new'\n")
    await broker.until(lambda: run.pids() not in (before, []), "another process")

    assert await answer(broker) == b"new"
    facts.path.with_name("facts.go").touch()
    [finished] = await broker.until_ended(running)
    assert (finished.ends, finished.attempts) == (["completed"], 1)


@pytest.mark.slow
async def test_code_that_cannot_be_imported_is_named_and_the_old_goes_on_until_the_next_change(
    broker: FakeBroker,
    start_worker: StartWorker,
    code: Code,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    run = await start_worker(["edited"], reload=True)
    assert await answer(broker) == b"old"

    code.write("helped", "ANSWER = = b'new'\n")
    await broker.until(lambda: "cannot be used" in caplog.text, "a complaint")
    [complaint] = [each for each in caplog.records if "cannot be used" in each.message]
    assert "SyntaxError: invalid syntax (helped.py, line 1)" in str(complaint.__dict__["problems"])
    assert await answer(broker) == b"old"

    code.write("helped", "ANSWER = b'new'\n")
    await broker.until(lambda: "new handlers are used" in caplog.text, "the new code")
    assert await answer(broker) == b"new"
    assert run.worker._stats.deaths == 0


@pytest.mark.slow
async def test_a_new_type_gets_its_process_and_its_limit(
    broker: FakeBroker,
    start_worker: StartWorker,
    code: Code,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    run = await start_worker(["edited"], reload=True)
    assert await answer(broker) == b"old"

    code.write(
        "edited",
        ANSWERS + "\n@task('more', execution='process', concurrency=1)\n"
        "def more(payload, context):\n    return b'more'\n",
    )
    await broker.until(lambda: "new handlers are used" in caplog.text, "the new code")
    [task] = await broker.until_ended(await broker.submit("more"))

    assert task.result == b"more"
    assert len(run.pids()) == 2


async def test_what_was_written_while_the_handlers_were_loaded_is_a_change(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    for path in (old, new):
        path.touch()
    began_ns = 1_000_000_000 * 1_000
    os.utime(old, ns=(began_ns - 1, began_ns - 1))
    os.utime(new, ns=(began_ns + 1, began_ns + 1))

    changes = Changes(lambda: [str(old), str(new)], began_ns)

    assert await changes.next() == [str(new)]
