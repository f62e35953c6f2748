"""Random histories in which the version rises, and a table is filled, while everything breaks."""

from __future__ import annotations

import os

import pytest

from tests.simulation.play.story import Story
from tests.simulation.play.upgrades import upgrade_history

FIRST_SEED = int(os.environ.get("TQ_FIRST_SEED") or 0)
SEEDS = 6


@pytest.mark.slow
def test_no_upgrade_breaks_a_promise_whoever_leads_while_the_table_is_filled() -> None:
    shared = slices = 0
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        history, seen = upgrade_history(Story(seed, whole_stack=True))
        assert not history.failure, f"seed {seed}"
        assert history.counts["claims"] > 0
        shared += seen.leaders > 1
        slices += seen.slices
    assert slices > SEEDS
    assert shared > 0, "no leader went on where another had stopped"
