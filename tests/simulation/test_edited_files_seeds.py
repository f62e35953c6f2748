"""Random histories in which files are edited: whom they name changes nothing.

``python -m tests.simulation.play.edited_files FIRST COUNT`` runs many, and names those that fail.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.play.edited_files import edited_files_history
from tests.simulation.play.story import Story

pytestmark = pytest.mark.slow

FIRST_SEED = int(os.environ.get("TQ_FIRST_SEED") or 0)
SEEDS = 10


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_no_edited_file_breaks_a_promise(seed: int) -> None:
    happened = edited_files_history(Story(seed))

    assert not happened.failure
    assert happened.counts["acknowledged"] > 0
    assert happened.counts["edited"] > 0
