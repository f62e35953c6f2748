"""An overloaded machine: nothing fails, but everything is slow."""

from __future__ import annotations

import random

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.play import play
from tests.simulation.play.runs import simulate
from tests.simulation.play.story import History, Script, Story
from tests.simulation.world.hardware import USUAL_FSYNC_S
from tests.simulation.world.host import Host
from tq_cluster.raft.settings import RaftSettings

SLOW_FSYNC_S = (0.3, 0.45)
LEADER_STALL_S = (0.05, 0.3)
FOLLOWER_STALL_S = (0.05, 2.0)
CUT_OFF_S = (0.3, 1.2)
"""Long enough for a node to stand for election, if it could do so alone."""
KINDS = (
    "slow_fsync",
    "stalled_leader",
    "stalled_follower",
    "restarted_follower",
    "cut_off_follower",
)


class Busy:
    """Makes nodes late. Every method is a kind of step."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._cut_off_until_s = 0.0

    def slow_fsync(self, draw: random.Random) -> None:
        """Make every fsync of a node slower than a heartbeat for a while."""
        syncer = draw.choice(self._cluster.machines).syncer
        syncer.delay_s = SLOW_FSYNC_S
        self._cluster.loop.call_later(
            draw.uniform(0.05, 0.6), lambda: setattr(syncer, "delay_s", USUAL_FSYNC_S)
        )

    def stalled_leader(self, draw: random.Random) -> None:
        """Hold the leader's loop for less than the election timeout of the others."""
        leader = self._cluster.leader()
        if leader is not None:
            self._stall(leader, draw.uniform(*LEADER_STALL_S))

    def stalled_follower(self, draw: random.Random) -> None:
        """Hold a follower's loop for any time: that must not cause an election."""
        length_s = LEADER_STALL_S if self._anybody_away() else FOLLOWER_STALL_S
        self._stall(draw.choice(self._cluster.followers()), draw.uniform(*length_s))

    def restarted_follower(self, draw: random.Random) -> None:
        """Restart a follower, which then knows no leader."""
        if not self._anybody_away():
            host = draw.choice(self._cluster.followers())
            host.kill()
            self._cluster.loop.call_later(draw.uniform(0.05, 1.0), self._start, host)

    def cut_off_follower(self, draw: random.Random) -> None:
        """Cut a follower off; afterwards all delayed messages arrive."""
        if self._anybody_away():
            return
        network = self._cluster.network
        lonely = draw.choice(self._cluster.followers()).name
        for other in self._cluster.hosts:
            if other != lonely:
                network.block(lonely, other)
                network.block(other, lonely)
        self._cut_off_until_s = self._cluster.loop.time() + draw.uniform(*CUT_OFF_S)
        self._cluster.loop.call_at(self._cut_off_until_s, network.heal)

    def _anybody_away(self) -> bool:
        """Whether a follower is away: a second one, if away for long, would justify an election."""
        return self._cluster.loop.time() < self._cut_off_until_s or any(
            host.paused or not host.up for host in self._cluster.followers()
        )

    @staticmethod
    def _start(host: Host) -> None:
        if not host.up:
            host.begin()

    def _stall(self, host: Host, for_s: float) -> None:
        if host.up and not host.paused:
            process = host.host_loop
            process.pause()
            self._cluster.loop.call_later(for_s, process.resume)


def busy_history(
    story: Story, *, settings: RaftSettings | None = None, for_s: float = 15.0
) -> History:
    """Run full load on such machines: the first election must be the only one."""
    script = Script(for_s=for_s, weights=dict.fromkeys(KINDS, 1), pause_s=(0.1, 1.0))
    trace: list[str] = []

    async def scenario(cluster: Cluster) -> None:
        cluster.load.trace = trace
        await cluster.start()
        await cluster.await_leader()
        busy = Busy(cluster)
        await play(
            cluster, story.steps(script), story, {kind: getattr(busy, kind) for kind in KINDS}
        )
        await cluster.settle()
        leaderships = [line for line in trace if " leader " in line]
        if len(leaderships) > 1:
            raise AssertionError(f"nothing had failed, and others came to lead: {leaderships}")

    error: Exception | None = None
    try:
        simulate(scenario, seed=str(story.seed), settings=settings, skewed=True)
    except Exception as failure:  # noqa: BLE001 - any error is a finding of the seed
        error = failure
    return History(trace, {}, error)
