"""Seeds that nobody has run before, printed so that anybody can run them again.

``TQ_SEEDS`` says how many protocol seeds (and a sixth as many of the whole stack), and
``TQ_FIRST_SEED`` where to begin.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.simulation import campaign

SEEDS = int(os.environ.get("TQ_SEEDS", "90"))
PROTOCOL_SEEDS_TO_ONE = 6


def no_promise_is_broken(
    seeds: int, capsys: pytest.CaptureFixture[str], *, whole_stack: bool
) -> campaign.Campaign:
    """Run so many; where one fails, say which, and tell it in short."""
    first = int(os.environ.get("TQ_FIRST_SEED") or campaign.drawn_seed())
    option = " --whole-stack" if whole_stack else ""
    with capsys.disabled():
        sys.stdout.write(
            f"\npython -m tests.simulation run --first {first} --seeds {seeds}{option}\n"
        )
    done = campaign.run(first, seeds, whole_stack=whole_stack)
    with capsys.disabled():
        sys.stdout.write(done.describe() + "\n")
    told = [f"seed {story.seed}: {failure}\n  {story.command}" for story, failure in done.failures]
    told += [campaign.tell(story) for story, _ in done.failures[:1]]
    assert not done.failures, "\n".join(told)
    assert done.seeds == seeds
    return done
