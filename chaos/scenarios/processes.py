"""Nodes that die, fall silent, come back."""

from __future__ import annotations

from chaos.nemeses.kill import KillAll, KillFollower, KillLeader, KillTwo
from chaos.nemeses.pause import PauseLeader
from chaos.scenario import Scenario

SCENARIOS = (
    Scenario(
        name="steady",
        summary="nothing is broken: what load and verdict look like by themselves",
        nemeses=(),
        duration_s=5,
        in_ci=False,
    ),
    Scenario(
        name="kill",
        summary="the leader, a follower, two and all nodes are killed, and started again",
        nemeses=(KillLeader, KillFollower, KillTwo, KillAll),
    ),
    Scenario(
        name="pause-leader",
        summary="the leader stops past the election and past the leases, and wakes up",
        nemeses=(PauseLeader,),
        duration_s=8,
    ),
)
