"""Clusters that are lost for good, and what is made of what is left."""

from __future__ import annotations

from chaos.nemeses.lost_majority import LostMajority
from chaos.nemeses.restored import Restored
from chaos.scenario import Scenario

SCENARIOS = (
    Scenario(
        name="lost-majority",
        summary="two nodes are lost with their disks; the third, down before, is recovered from",
        nemeses=(LostMajority,),
        duration_s=2,
    ),
    Scenario(
        name="restored",
        summary="every disk is lost some time after a backup, which is restored",
        nemeses=(Restored,),
        duration_s=2,
    ),
)
