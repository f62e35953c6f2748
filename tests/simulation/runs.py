"""Whole simulated histories, each from one seed.

``python -m tests.simulation.runs SEED`` runs one and prints what happened.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tests.simulation.cluster import Cluster, Load
from tests.simulation.faults import Faults
from tests.simulation.virtual_loop import VirtualLoop
from tq_cluster.raft.settings import RaftSettings

FAULTS_FOR_S = 15.0
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What came of a history."""

    load: Load
    digest: str
    """Of everything that happened, in order."""


def simulate(
    scenario: Callable[[Cluster], Awaitable[T]],
    *,
    seed: str,
    size: int = 3,
    settings: RaftSettings | None = None,
    checked: bool = True,
) -> T:
    """Run a scenario on a fresh cluster in virtual time.

    ``checked`` is for all but those that lose more disks than any promise covers.
    """
    loop = VirtualLoop()
    asyncio.set_event_loop(None)

    async def run() -> T:
        cluster = Cluster(loop, seed, size=size, settings=settings)
        if not checked:
            cluster.stop_checking()
        return await scenario(cluster)

    try:
        result: T = loop.run(run())
        return result
    finally:
        loop.close()


def random_history(
    seed: int, *, settings: RaftSettings | None = None, for_s: float = FAULTS_FOR_S
) -> Outcome:
    """Random faults under load, then peace; the checker watches throughout."""
    size = 5 if seed % 5 == 0 else 3

    async def scenario(cluster: Cluster) -> Outcome:
        await cluster.start()
        await cluster.await_leader()
        await Faults(cluster, random.Random(f"{seed}/faults")).run(for_s)
        await cluster.settle()
        assert not cluster.deaths, f"nodes died: {cluster.deaths}"
        trace = "\n".join(cluster.load.trace)
        return Outcome(cluster.load, hashlib.sha256(trace.encode()).hexdigest())

    return simulate(scenario, seed=str(seed), size=size, settings=settings)


if __name__ == "__main__":
    outcome = random_history(int(sys.argv[1]))
    sys.stdout.write("\n".join(outcome.load.trace) + "\n")
    load = outcome.load
    sys.stdout.write(
        f"proposed {load.proposed}, acknowledged {load.acknowledged}, unknown {load.unknown}, "
        f"confirmed {load.confirmed}, digest {outcome.digest}\n"
    )
