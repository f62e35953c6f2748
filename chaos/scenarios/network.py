"""Nodes that run and do not reach each other."""

from __future__ import annotations

from chaos.nemeses.kill import KillFollower, KillLeader
from chaos.nemeses.nemesis import Transport
from chaos.nemeses.partition import Bridge, Halves, LeaderCutFromFollowers, OneOut, OneWay, Ring
from chaos.nemeses.pause import PauseLeader
from chaos.nemeses.slow_network import Delay, Loss, LowBandwidth, SlowFollower
from chaos.scenario import Order, Scenario
from chaos.workloads.races import Races

SCENARIOS = (
    Scenario(
        name="bad-network",
        summary="delay with reordering, loss, a thin line, one slow follower",
        nemeses=(Delay, Loss, LowBandwidth, SlowFollower),
        transport=Transport.NETLAB,
    ),
    Scenario(
        name="mix-network",
        summary="partitions, a bad network, kills and pauses, at random and on top of each other",
        nemeses=(
            *(Halves, OneOut, OneWay, LeaderCutFromFollowers, Delay, Loss, SlowFollower),
            *(KillLeader, KillFollower, PauseLeader),
        ),
        workloads=(Races,),
        transport=Transport.NETLAB,
        duration_s=20,
        order=Order.AT_RANDOM,
        more_faults=("F25",),
        in_ci=False,
    ),
    Scenario(
        name="partition",
        summary="three nodes: one out, halves, one way, the leader cut from its followers",
        nemeses=(LeaderCutFromFollowers, OneOut, OneWay, Halves),
        transport=Transport.NETLAB,
    ),
    Scenario(
        name="partition-five",
        summary="five nodes in a ring of majorities, with a bridge, in halves",
        nemeses=(Ring, Bridge, Halves),
        transport=Transport.NETLAB,
        nodes=5,
        in_ci=False,
    ),
)
