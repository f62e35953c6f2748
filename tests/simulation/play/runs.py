"""Whole simulated histories, each from one seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.simulation.play.cluster import LOAD_SLICE_S, Cluster, Load
from tests.simulation.play.faults import WEIGHTS
from tests.simulation.play.play import play
from tests.simulation.play.story import History, Script, Story
from tests.simulation.world.host import DrawnSecret
from tests.simulation.world.virtual_loop import VirtualLoop
from tq_cluster.raft.settings import RaftSettings

LOAD = "load"
SCRIPT = Script(
    for_s=15.0,
    # The whole stack has three nodes, in which a late answer does no harm: its sender and its
    # receiver are a majority. Here every fifth story has five nodes.
    weights={**WEIGHTS, "late_answers": 3},
    steady=((LOAD, LOAD_SLICE_S),),
)
T = TypeVar("T")


def simulate(
    scenario: Callable[[Cluster], Awaitable[T]],
    *,
    seed: str,
    size: int = 3,
    settings: RaftSettings | None = None,
    checked: bool = True,
    skewed: bool = False,
) -> T:
    """Run a scenario on a fresh cluster in virtual time.

    ``checked`` is False only for scenarios that lose more disks than any promise covers.
    """
    loop = VirtualLoop()
    asyncio.set_event_loop(None)

    async def run() -> T:
        cluster = Cluster(loop, seed, size=size, settings=settings, skewed=skewed)
        if not checked:
            cluster.stop_checking()
        return await scenario(cluster)

    try:
        result: T = loop.run(run())
        return result
    finally:
        loop.close()


def protocol_history(story: Story, *, settings: RaftSettings | None = None) -> History:
    """Run random faults under load, then stop them; the checker watches all the time."""
    load = Load(on=False)

    async def scenario(cluster: Cluster) -> None:
        cluster.load = load
        if story.seed % 2:
            for host in cluster.machines:
                host.secret = DrawnSecret(random.Random(f"{story.seed}/{host.name}/nonces"))
        await cluster.start()
        await cluster.await_leader()
        await play(cluster, story.steps(SCRIPT), story, {LOAD: lambda _: cluster.take_load()})
        await cluster.settle()
        assert not cluster.deaths, f"nodes died: {cluster.deaths}"

    size = 5 if story.seed % 5 == 0 else 3
    error: Exception | None = None
    try:
        simulate(scenario, seed=str(story.seed), size=size, settings=settings, skewed=True)
    except Exception as failure:  # noqa: BLE001 - any error is a finding of the seed
        error = failure
    counts = {
        "acknowledged": load.acknowledged,
        "unknown": load.unknown,
        "confirmed": load.confirmed,
    }
    return History(load.trace, counts, error)
