"""Nodes that die at one exact place in their work."""

from __future__ import annotations

from chaos.nemeses.failpoint import Failpoint, SnapshotFailpoint
from chaos.scenario import Scenario

SCENARIOS = (
    Scenario(
        name="failpoints",
        summary="a node dies around each step of a write, of an election, of a compaction",
        nemeses=(Failpoint,),
        duration_s=8,
    ),
    Scenario(
        name="snapshot-failpoints",
        summary="a lagging follower or its leader dies while a snapshot is on its way",
        nemeses=(SnapshotFailpoint,),
        duration_s=8,
    ),
)
