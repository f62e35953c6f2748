"""Taking the steps of a story, each at its time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from tests.simulation.play.faults import Faults, Victim
from tests.simulation.play.story import Step, Story

Kind = Callable[[random.Random], object]


async def play(
    victim: Victim, steps: Sequence[Step], story: Story, also: Mapping[str, Kind]
) -> None:
    """Take each step at its time: a fault, or a kind of step from ``also``."""
    faults = Faults(victim)
    began_s = victim.loop.time()
    for step in steps:
        await asyncio.sleep(began_s + step.at_s - victim.loop.time())
        take = also.get(step.kind) or getattr(faults, step.kind)
        take(story.draw(f"step {step.number}"))
