"""Random histories in which disks are lost and replaced, and old ones come back.

``python -m tests.simulation.play.replacements FIRST COUNT`` runs many, and names those that fail.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.play.replacements import replacement_history
from tests.simulation.play.story import Story

FIRST_SEED = int(os.environ.get("TQ_FIRST_SEED") or 0)
SEEDS = 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_no_replacement_breaks_a_promise(seed: int) -> None:
    happened = replacement_history(Story(seed))

    assert not happened.failure
    assert happened.counts["acknowledged"] > 0
    assert happened.counts["replaced"] >= happened.counts["lost"] > 0
