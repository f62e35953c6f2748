"""What workers, operators and payloads do to a cluster whose leaders die."""

from __future__ import annotations

from chaos.nemeses.kill import KillLeader
from chaos.nemeses.replies import RepliesLost
from chaos.nemeses.stampede import Stampede
from chaos.nemeses.timers import DueAsLeaderDies
from chaos.nemeses.workers import WorkerSleeps
from chaos.scenario import Scenario
from chaos.workloads.poison import Poison
from chaos.workloads.races import Races
from chaos.workloads.sizes import Sizes

SCENARIOS = (
    Scenario(
        name="worker-sleeps",
        summary="workers sleep past their leases and complete; timers fire as the leader dies",
        nemeses=(WorkerSleeps, DueAsLeaderDies),
        duration_s=5,
    ),
    Scenario(
        name="replies-lost",
        summary="calls arrive and their replies are lost, between clients and nodes",
        nemeses=(RepliesLost,),
        workloads=(Races,),
        duration_s=6,
        more_faults=("F21",),
    ),
    Scenario(
        name="stampede",
        summary="hundreds of clients lose the leader at once and retry without pause",
        nemeses=(Stampede,),
        duration_s=2,
    ),
    Scenario(
        name="races",
        summary="cancels, pauses, purges and redrives race with workers while leaders die",
        nemeses=(KillLeader,),
        workloads=(Races,),
        duration_s=5,
        more_faults=("F21",),
    ),
    Scenario(
        name="poison",
        summary="handlers that crash their process, payloads around 64 KiB and at 10 MiB",
        nemeses=(KillLeader,),
        workloads=(Poison, Sizes),
        duration_s=3,
        more_faults=("F20",),
    ),
)
