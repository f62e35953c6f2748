"""Histories in which disks are lost, and an operator replaces them with empty ones."""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter

from tests.simulation.play.cluster import LOAD_SLICE_S, Cluster, Load
from tests.simulation.play.faults import WEIGHTS
from tests.simulation.play.play import play
from tests.simulation.play.runs import LOAD, simulate
from tests.simulation.play.story import History, Script, Story
from tests.simulation.world.host import Host
from tq_cluster.raft.log_api import Role
from tq_cluster.raft.membership import Members, marked

LOSE_DISK = "lose_disk"
OLD_DISK = "old_disk"
SCRIPT = Script(
    for_s=15.0,
    weights={**WEIGHTS, LOSE_DISK: 8, OLD_DISK: 5},
    steady=((LOAD, LOAD_SLICE_S),),
)
LOOK_EVERY_S = 0.25
ANYTHING = 1 << 62
"""An index above all entries: the whole disk is absent."""


async def write_members(cluster: Cluster) -> None:
    """Record the members, as a cluster's first leader does."""
    leader = await cluster.await_leader()
    formed = leader.replica.formation()
    assert formed is not None
    await cluster.put(marked(b"", formed[1]))


class Operator:
    """Loses disks, never more at once than the promise covers, and gets them replaced."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.lost = 0
        self.replaced = 0

    async def form(self) -> None:
        """Start once the members are recorded."""
        await write_members(self._cluster)
        self._look()

    # ------------------------------------------------------------------ what is done

    def lose_disk(self, draw: random.Random) -> None:
        """Lose a host's disk; the host starts again with an empty one."""
        hosts = self._cluster.machines
        if sum(host.lost_upto > 0 for host in hosts) >= (len(hosts) - 1) // 2:
            return
        host = draw.choice(hosts)
        if host.lost_upto:
            return
        self._cluster.note(f"the disk of {host.name} is lost")
        self.lost += 1
        host.keep_old_disk()
        host.lose_disk()
        host.lost_upto = self._acked()
        self._cluster.loop.call_later(draw.uniform(0.01, 1.0), self._begin, host)

    def old_disk(self, draw: random.Random) -> None:
        """Run a disk that was replaced, or is about to be, for a while under the host's name."""
        hosts = [host for host in self._cluster.machines if host.has_old_disk]
        # The member's own disk is absent meanwhile: no other disk may be.
        if not hosts or any(host.lost_upto >= ANYTHING for host in self._cluster.machines):
            return
        host = draw.choice(hosts)
        away = [other for other in self._cluster.machines if other.lost_upto and other is not host]
        if away:
            return
        self._cluster.note(f"{host.name} runs on its old disk")
        lost_upto, host.lost_upto = host.lost_upto, ANYTHING
        host.swap_disks()
        self._begin(host)
        self._cluster.loop.call_later(draw.uniform(0.1, 3.0), self._new_disk, host, lost_upto)

    def _new_disk(self, host: Host, lost_upto: int) -> None:
        self._cluster.note(f"{host.name} runs on its new disk")
        was_member = self._members().get(host.name) == host.identity.incarnation
        host.swap_disks()
        # Before its replacement the old disk was good: it is lost only now.
        host.lost_upto = self._acked() if was_member else lost_upto
        self._begin(host)

    def _acked(self) -> int:
        """The last entry that may be acknowledged already, or by a message on its way."""
        return max(host.journal.last_index for host in self._cluster.machines)

    def _members(self) -> Members:
        """The members in the state of the host that has applied the most."""
        ahead = max(self._cluster.machines, key=lambda host: host.state_disk.durable[-1][0])
        return ahead.machine.members or {}

    def _begin(self, host: Host) -> None:
        if not host.up and not host.disk.fail_syncs:
            host.begin()

    # ------------------------------------------------------------------ what the operator does

    def _look(self) -> None:
        self._cluster.loop.call_later(LOOK_EVERY_S, self._look)
        for host in self._cluster.machines:
            whole = host.lost_upto and host.lost_upto < ANYTHING and host.up
            if whole and self._cluster.checker.holds_all(host):
                host.lost_upto = 0
        leader = self._cluster.leader()
        if leader is None or leader.paused:
            return
        status = leader.replica.status()
        members = leader.machine.members
        if status.role is not Role.LEADER or not status.strangers or members is None:
            return
        name = min(status.strangers)
        change = {**members, name: status.strangers[name]}
        if self._cluster.propose(leader, marked(b"", change)) is not None:
            self._cluster.note(f"{leader.name} has the disk of {name} replaced")
            self.replaced += 1


def replacement_history(story: Story) -> History:
    """Lose and replace disks among all other faults, under load; then stop the faults."""
    load = Load(on=False)
    counts = {"lost": 0, "replaced": 0}

    async def scenario(cluster: Cluster) -> None:
        cluster.load = load
        operator = Operator(cluster)
        await cluster.start()
        await operator.form()
        kinds = {
            LOAD: lambda _: cluster.take_load(),
            LOSE_DISK: operator.lose_disk,
            OLD_DISK: operator.old_disk,
        }
        await play(cluster, story.steps(SCRIPT), story, kinds)
        await cluster.until(
            "every host runs on its own disk",
            lambda: all(host.lost_upto < ANYTHING for host in cluster.machines),
        )
        counts.update(lost=operator.lost, replaced=operator.replaced)
        await cluster.settle()
        assert not cluster.deaths, f"nodes died: {cluster.deaths}"

    size = 5 if story.seed % 3 == 0 else 3
    error: Exception | None = None
    try:
        simulate(scenario, seed=f"replacements {story.seed}", size=size, skewed=True)
    except Exception as failure:  # noqa: BLE001 - any error is a finding of the seed
        error = failure
    return History(load.trace, {"acknowledged": load.acknowledged, **counts}, error)


def main(first: int, count: int) -> int:
    """Run seeds; print those that fail and a summary."""
    logging.disable(logging.CRITICAL)
    failed, total = 0, Counter[str]()
    for seed in range(first, first + count):
        happened = replacement_history(Story(seed))
        total.update(happened.counts)
        if happened.error is not None:
            failed += 1
            sys.stdout.write(f"seed {seed}: {happened.failure}\n")
    sys.stdout.write(f"{count} seeds from {first}: {dict(total)}, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
