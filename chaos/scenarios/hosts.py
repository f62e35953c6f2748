"""Hosts that are starved, whose clocks are wrong, whose files are damaged."""

from __future__ import annotations

from chaos.nemeses.clock import ClocksApart, ClockStrobes, LeaderClockSteps
from chaos.nemeses.damage import FlipBits, OldImage, SpoilHeads, TearJournal, TruncateState, Wipe
from chaos.nemeses.starve import ExhaustDescriptors, MemoryLimit, StarveOfProcessor
from chaos.scenario import Scenario

SCENARIOS = (
    Scenario(
        name="clocks",
        summary="wall clocks step by an hour, are all apart, jump to and fro",
        nemeses=(LeaderClockSteps, ClocksApart, ClockStrobes),
    ),
    Scenario(
        name="starve",
        summary="the leader runs short of processor, file descriptors, memory",
        nemeses=(StarveOfProcessor, ExhaustDescriptors, MemoryLimit),
    ),
    Scenario(
        name="damage",
        summary="a follower's state is cut short, its journal torn, bits and page heads spoilt",
        nemeses=(TruncateState, TearJournal, FlipBits, SpoilHeads),
        duration_s=12,
    ),
    Scenario(
        name="other-disk",
        summary="a follower comes back with an empty disk, or with an older image of its own",
        nemeses=(Wipe, OldImage),
        duration_s=12,
    ),
)
