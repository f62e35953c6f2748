"""Nodes that die, fall silent, come back."""

from __future__ import annotations

from chaos.nemeses.kill import KillAll, KillFollower, KillLeader, KillTwo
from chaos.nemeses.leadership import Flapping, HandOvers, RollingRestart
from chaos.nemeses.pause import PauseLeader
from chaos.nemeses.replies import RepliesLost
from chaos.nemeses.timers import DueAsLeaderDies
from chaos.nemeses.workers import WorkerSleeps
from chaos.scenario import Order, Scenario
from chaos.workloads.races import Races

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
        duration_s=4,
    ),
    Scenario(
        name="leadership",
        summary="leadership is handed around and a node flaps, under load",
        nemeses=(HandOvers, Flapping),
        duration_s=8,
    ),
    Scenario(
        name="rolling-restart",
        summary="every node is stopped and started again, one after the other",
        nemeses=(RollingRestart,),
        duration_s=5,
    ),
    Scenario(
        name="mix",
        summary="kills, pauses, hand-overs and lost replies, at random, with quiet periods",
        nemeses=(
            *(KillLeader, KillFollower, KillTwo, KillAll, PauseLeader, Flapping, HandOvers),
            *(RepliesLost, WorkerSleeps, DueAsLeaderDies),
        ),
        workloads=(Races,),
        duration_s=15,
        order=Order.AT_RANDOM,
        more_faults=("F25",),
    ),
)
