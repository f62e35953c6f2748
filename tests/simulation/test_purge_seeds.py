"""Random histories with purges at once, and a leader killed at each entry of one."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.simulation.play.play import play
from tests.simulation.play.stack import SCRIPT, Stack, whole_stack_history
from tests.simulation.play.story import History, Script, Story
from tests.simulation.test_killed_at_each_entry import AFTER_S, led, watch
from tests.simulation.world.broker import api_address
from tests.simulation.world.workers import QUEUES, Plan
from tq.v1 import task_pb2
from tq_cluster.core.kernel.continuations import INLINE_ITEMS, SLICE_ITEMS

SEEDS = 40
SEEDS_A_TEST = 5
BURST = 60
SHELF = "shelf"
"""A queue that no worker serves."""
SHELVED = INLINE_ITEMS + 2 * SLICE_ITEMS + 1
ENTRIES = 3
"""As many as a purge of so many tasks takes."""
DONE_S = 3.0

PURGE_SCRIPT = Script(
    for_s=10.0,
    weights={**SCRIPT.weights, "burst": 8, "purge": 8},
    pause_s=SCRIPT.pause_s,
    steady=(("submit", 0.5), ("read", 0.15), ("burst", 1.0), ("purge", 1.5)),
)


def many(queue: str, tasks: int) -> list[task_pb2.TaskSpec]:
    return [
        task_pb2.TaskSpec(queue=queue, type="t", payload=Plan(work_s=0.05).payload(str(number)))
        for number in range(tasks)
    ]


def purge_history(seed: int) -> tuple[History, int]:
    """Run random faults and calls, with purges among them; then check the history.

    Also returns how many tasks were purged.
    """
    story = Story(seed, whole_stack=True)
    purged: list[int] = []

    async def drive(stack: Stack) -> None:
        client = stack.clients[0]

        async def purge(queue: str) -> None:
            purged.append(await client.purge(queue))

        def burst(draw: random.Random) -> None:
            client.spawn(client.submit(many(draw.choice(QUEUES), BURST)))

        kinds = {
            **stack.kinds(),
            "burst": burst,
            "purge": lambda draw: client.spawn(purge(draw.choice(QUEUES))),
        }
        await play(stack, story.steps(PURGE_SCRIPT), story, kinds)

    return whole_stack_history(story, drive=drive), sum(purged)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_no_history_with_purges_breaks_a_promise(first: int) -> None:
    purged = 0
    for seed in range(first, first + SEEDS_A_TEST):
        history, tasks = purge_history(seed)
        assert history.failure == "", f"seed {seed}"
        purged += tasks
    assert purged > BURST, "tasks waited when a purge came"


@pytest.mark.parametrize("after_s", AFTER_S)
@pytest.mark.parametrize("at", range(1, ENTRIES + 1))
def test_a_leader_killed_at_an_entry_of_a_purge_changes_nothing(at: int, after_s: float) -> None:
    purged: list[int] = []
    ends: list[int] = []

    async def drive(stack: Stack) -> None:
        await led(stack)
        client = stack.clients[0]
        await client.submit(many(SHELF, SHELVED))
        watch(stack, at, after_s)
        purged.append(await client.purge(SHELF))
        await asyncio.sleep(DONE_S)
        leader = stack.leader()
        assert leader is not None
        found = await client.list_all(api_address(leader.name))
        ends.extend(task.state for task in found)

    history = whole_stack_history(Story(at, whole_stack=True), drive=drive)

    assert history.failure == ""
    assert any(" is killed at entry " in line for line in history.trace)
    assert purged == [SHELVED]
    assert ends == [task_pb2.TASK_STATE_CANCELLED] * SHELVED
