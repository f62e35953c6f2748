"""Hooks around attempts: when they are called, with what, and what becomes of what they raise."""

from __future__ import annotations

import pytest

from tests.worker.conftest import Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tq_worker import TaskContext, on_dead
from tq_worker.api.hooks import Hooks

pytestmark = pytest.mark.slow

HOOKED = ("tests.worker.hooked_handlers",)
MISFIT = (
    "the result does not fit: TypeError: the handler returned dict; "
    "it must return bytes, Result or None"
)


@pytest.mark.parametrize("task_type", ["hooked", "hooked-async", "hooked-solo"])
@pytest.mark.parametrize(
    ("payload", "attempts", "lines"),
    [
        (b"", 5, ["before 1", "after completed"]),
        (
            b"fail",
            2,
            [
                *("before 1", "failure ValueError: as asked", "after failed"),
                *("before 2", "failure ValueError: as asked", "dead ValueError", "after failed"),
            ],
        ),
        (
            b"permanent",
            5,
            [
                *("before 1", "failure PermanentError: as asked"),
                *("dead PermanentError", "after failed"),
            ],
        ),
        (
            b"misfit",
            5,
            [
                *("before 1", f"failure PermanentError: {MISFIT}"),
                *("dead PermanentError", "after failed"),
            ],
        ),
    ],
)
async def test_hooks_are_told_of_every_attempt_and_a_broken_one_changes_nothing(
    broker: FakeBroker,
    start_worker: StartWorker,
    facts: Facts,
    task_type: str,
    payload: bytes,
    attempts: int,
    lines: list[str],
) -> None:
    await start_worker(HOOKED)

    ids = await broker.submit(
        task_type, payload, max_attempts=attempts, labels={"facts": str(facts.path)}
    )

    await broker.until_ended(ids)
    assert facts.lines() == lines


@pytest.mark.parametrize("task_type", ["hooked", "hooked-async"])
async def test_a_timeout_is_a_failure_to_hooks_too(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, task_type: str
) -> None:
    await start_worker(HOOKED)

    ids = await broker.submit(
        *(task_type, b"slow"),
        timeout_s=0.2,
        max_attempts=1,
        labels={"facts": str(facts.path)},
    )

    [task] = await broker.until_ended(ids)
    assert task.ends == ["failed"]
    assert facts.lines() == [
        *("before 1", "failure TimeoutError: the task's timeout has passed"),
        *("dead TimeoutError", "after failed"),
    ]


async def test_a_task_that_is_given_back_is_released_to_hooks(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    run = await start_worker(HOOKED, drain_timeout_s=0.1)
    ids = await broker.submit("hooked-async", b"slow", labels={"facts": str(facts.path)})
    await facts.until("before 1")

    await run.leave()

    assert broker.tasks[ids[0]].ends == ["released"]
    assert facts.lines() == ["before 1", "after released"]


def test_a_hook_that_does_not_take_what_it_is_given_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = Hooks()
    monkeypatch.setattr("tq_worker.api.hooks.HOOKS", fresh)

    def odd(_context: TaskContext) -> None: ...

    with pytest.raises(TypeError, match=r"odd must take \(context, outcome or error\): too many"):
        on_dead(odd)
    assert fresh.on_dead == []
