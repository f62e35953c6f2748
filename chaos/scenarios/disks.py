"""Disks that forget, fill up, stick, or fail."""

from __future__ import annotations

from chaos.nemeses.disk import DiskFull, DiskReadOnly, DiskStuck, FsyncFails
from chaos.nemeses.power import PowerLossAll, PowerLossBesidePause, PowerLossMajority, PowerLossOne
from chaos.nemeses.slow_fsync import SlowFsyncs
from chaos.scenario import Scenario

SCENARIOS = (
    Scenario(
        name="power-loss",
        summary="one node, a majority and all lose power and what they had not fsynced",
        nemeses=(PowerLossOne, PowerLossMajority, PowerLossAll),
    ),
    Scenario(
        name="power-loss-majority",
        summary="the leader and a follower lose power, again and again",
        nemeses=(PowerLossMajority,),
        in_ci=False,
    ),
    Scenario(
        name="power-loss-beside-pause",
        summary="the leader loses power while a follower is paused",
        nemeses=(PowerLossBesidePause,),
        duration_s=5,
    ),
    Scenario(
        name="disk-full",
        summary="every disk fills up, and there is room again",
        nemeses=(DiskFull,),
        duration_s=6,
    ),
    Scenario(
        name="disk-fails",
        summary="the leader's disk is stuck, read-only, fails to fsync",
        nemeses=(DiskStuck, DiskReadOnly, FsyncFails),
    ),
    Scenario(
        name="slow-fsyncs",
        summary="some fsyncs take 300 ms on every node: no leader loses its place",
        nemeses=(SlowFsyncs,),
        duration_s=3,
    ),
)
