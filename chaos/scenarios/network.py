"""Nodes that run and do not reach each other."""

from __future__ import annotations

from chaos.nemeses.partition import Bridge, Halves, LeaderCutFromFollowers, OneOut, OneWay, Ring
from chaos.nemesis import Transport
from chaos.scenario import Scenario

SCENARIOS = (
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
