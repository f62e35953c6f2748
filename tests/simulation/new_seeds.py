"""New seeds, which are printed so that they can be run again.

``TQ_SEEDS`` says how many protocol seeds (and a sixth as many of the whole stack), and
``TQ_FIRST_SEED`` where to begin; without it tests/conftest.py draws one for all that run.
"""

from __future__ import annotations

import os

from tests.simulation.play import campaign
from tests.telling import RecordProperty, tell

SEEDS = int(os.environ.get("TQ_SEEDS", "90"))
WHOLE_STACK_SEEDS = -(-SEEDS // 6)
FIRST_SEED = int(os.environ["TQ_TESTS_DRAWN_SEED"])
SEEDS_A_TEST = 100
WHOLE_STACK_SEEDS_A_TEST = 20
"""Chosen so that a test takes under a minute on two free cores, and not too long on busy ones."""


def parts(seeds: int, at_a_time: int) -> list[range]:
    """The seeds that each of several tests runs, counted from the first seed."""
    return [range(start, min(start + at_a_time, seeds)) for start in range(0, seeds, at_a_time)]


def no_promise_is_broken(
    part: range, record_property: RecordProperty, *, whole_stack: bool
) -> campaign.Campaign:
    """Run these seeds; if one fails, name it and describe a short version of it."""
    first, seeds = FIRST_SEED + part.start, len(part)
    option = " --whole-stack" if whole_stack else ""
    done = campaign.run(first, seeds, whole_stack=whole_stack)
    again = f"python -m tests.simulation run --first {first} --seeds {seeds}{option}"
    tell(record_property, f"{again}\n  {done.describe()}")
    told = [f"seed {story.seed}: {failure}\n  {story.command}" for story, failure in done.failures]
    told += [campaign.tell(story) for story, _ in done.failures[:1]]
    assert not done.failures, "\n".join(told)
    assert done.seeds == seeds
    return done
