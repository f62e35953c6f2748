"""Clusters that are lost for good, and what is recovered of them."""

from __future__ import annotations

from chaos.nemeses.lost_clocks import LostMajorityClocksBehind
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
        name="lost-majority-five",
        summary="three of five nodes are lost with their disks; two lag, one of them further",
        nemeses=(LostMajority,),
        nodes=5,
        duration_s=2,
        in_ci=False,
    ),
    Scenario(
        name="lost-majority-clocks",
        summary="as lost-majority, and the clocks of the new cluster are behind",
        nemeses=(LostMajorityClocksBehind,),
        duration_s=2,
        in_ci=False,
    ),
    Scenario(
        name="restored",
        summary="every disk is lost some time after a backup, which is restored",
        nemeses=(Restored,),
        duration_s=2,
    ),
)
