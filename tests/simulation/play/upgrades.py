"""Histories in which the version rises: a table is filled while leaders change.

``python -m tests.simulation.play.upgrades FIRST COUNT`` runs many, and names those that fail.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from unittest import mock

from tests.simulation.play.stack import whole_stack_history
from tests.simulation.play.story import History, Story
from tests.simulation.world.workers import EVERYTHING, Appetite
from tq_cluster.core.model.operations import Filled
from tq_cluster.leader import cluster_tasks
from tq_cluster.leader.cluster_tasks import ClusterTasks
from tq_cluster.raft.replica import Replica

OLD_VERSION = 2
RAISED_S = 2.5
WORKERS_BEGIN_S = 6.0
"""Until then tasks pile up, so that there is something to fill."""
APPETITES = (EVERYTHING, Appetite(types=("special",)), Appetite(but=("special",)))


@dataclass(slots=True)
class Filling:
    """What was seen of the filling."""

    slices: int = 0
    leaders: int = 0
    completed: int = 0


def upgrade_history(story: Story) -> tuple[History, Filling]:
    """Run random faults around a rising version; then stop them, and check the history."""
    seen = Filling()
    common_version, filled = Replica.common_version, ClusterTasks.filled
    filling: set[int] = set()

    def limited(self: Replica) -> int | None:
        common = common_version(self)
        raised = asyncio.get_running_loop().time() >= RAISED_S
        return common if raised or common is None else min(common, OLD_VERSION)

    def noting(self: ClusterTasks, found: Filled) -> None:
        seen.slices += 1
        seen.completed += found.complete
        filling.add(id(self))
        filled(self, found)

    with (
        mock.patch.object(Replica, "common_version", limited),
        mock.patch.object(ClusterTasks, "filled", noting),
        mock.patch.object(cluster_tasks, "LOOK_S", 0.2),
        mock.patch.object(cluster_tasks, "FILL_S", 0.15),
        mock.patch.object(cluster_tasks, "FILL_ROWS", 1),
    ):
        history = whole_stack_history(story, appetites=APPETITES, workers_begin_s=WORKERS_BEGIN_S)
    seen.leaders = len(filling)
    return history, seen


def main(first: int, count: int) -> int:
    """Run so many stories; print those that fail and a summary."""
    logging.disable(logging.CRITICAL)
    failed = shared = slices = 0
    for seed in range(first, first + count):
        history, seen = upgrade_history(Story(seed, whole_stack=True))
        shared += seen.leaders > 1
        slices += seen.slices
        if history.failure:
            failed += 1
            sys.stdout.write(f"seed {seed}: {history.failure}\n")
    told = f"{failed} failed; {slices} slices, {shared} times by several leaders"
    sys.stdout.write(f"{count} stories from {first}: {told}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
