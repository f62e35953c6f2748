"""The leader is killed at each entry of tasks for which workers wait."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.play.stack import Stack, whole_stack_history
from tests.simulation.play.story import Story
from tests.simulation.world.broker import Broker
from tests.simulation.world.checker import Observed
from tests.simulation.world.workers import QUEUES, Plan
from tq.v1 import task_pb2

TASKS = 3
ENTRIES = 2 * TASKS
"""A submit and the claim that waits for it share an entry; the report is the other."""
AFTER_S = (0.0, 0.0002, 0.001, 0.003, 0.01)
"""How long after its write of the entry the leader is killed: before and after it is sent, is on
its disk, is on a majority's disks, is answered.
"""


async def submits(stack: Stack) -> None:
    """Submit one task after the other once every worker waits for one."""
    for number in range(TASKS):
        await asyncio.sleep(0.7)
        plan = Plan(work_s=0.05)
        spec = task_pb2.TaskSpec(queue=QUEUES[0], type="t", payload=plan.payload(str(number)))
        stack.clients[0].spawn(stack.clients[0].submit([spec]))
    await asyncio.sleep(0.7)


def watch(stack: Stack, at: int, after_s: float = 0.0, *, cut_off: bool = False) -> list[int]:
    """Note each entry that the leader writes from now on; kill it after the one with number ``at``.

    Entries count from 1; 0 kills none. If ``cut_off``, no other broker receives that entry.
    """
    written: list[int] = []
    appended = stack.checker.appended

    def noted(host: Observed, index: int, term: int, entry: bytes) -> None:
        appended(host, index, term, entry)
        if host is stack.leader() and len(written) < max(at, ENTRIES):
            written.append(index)
            if len(written) == at:
                for other in stack.machines if cut_off else ():
                    if other is not host:
                        stack.network.block(host.name, other.name)
                stack.loop.call_later(after_s, kill, host)

    def kill(host: Broker) -> None:
        if host.up:
            stack.note(f"{host.name} is killed at entry {written[-1]}")
            host.kill()

    stack.checker.appended = noted  # type: ignore[method-assign]
    return written


async def led(stack: Stack) -> None:
    """Wait until a leader serves and the workers' claims wait."""
    leader = None
    while leader is None or not leader.leader.serving():
        await asyncio.sleep(0.05)
        leader = stack.leader()
    await asyncio.sleep(1.0)


def test_without_a_kill_each_task_takes_two_entries() -> None:
    written: list[int] = []

    async def drive(stack: Stack) -> None:
        await led(stack)
        found = watch(stack, 0)
        await submits(stack)
        written.extend(found)

    history = whole_stack_history(Story(3, whole_stack=True), drive=drive)

    assert history.failure == ""
    assert len(written) == ENTRIES


@pytest.mark.slow
@pytest.mark.parametrize("after_s", AFTER_S)
@pytest.mark.parametrize("cut_off", [False, True], ids=["sent", "not sent"])
@pytest.mark.parametrize("at", range(1, ENTRIES + 1))
def test_a_leader_killed_at_an_entry_loses_and_doubles_nothing(
    at: int, after_s: float, cut_off: bool
) -> None:
    async def drive(stack: Stack) -> None:
        await led(stack)
        watch(stack, at, after_s, cut_off=cut_off)
        await submits(stack)

    history = whole_stack_history(Story(at, whole_stack=True), drive=drive)

    assert history.failure == ""
    assert any(" is killed at entry " in line for line in history.trace)
    assert history.counts["submits"] == TASKS
    assert history.counts["reports"] >= TASKS
