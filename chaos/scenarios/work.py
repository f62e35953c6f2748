"""Workers that sleep, replies that are lost, clients that retry all at once.

The scenarios of one workload stand beside it, in ``chaos.workloads``.
"""

from __future__ import annotations

from chaos.nemeses.replies import RepliesLost
from chaos.nemeses.stampede import Stampede
from chaos.nemeses.timers import DueAsLeaderDies
from chaos.nemeses.workers import WorkerSleeps
from chaos.scenario import Scenario
from chaos.workloads.races import Races

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
)
