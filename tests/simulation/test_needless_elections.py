"""No leader loses the lead because something took its time."""

from __future__ import annotations

import pytest

from tests.simulation.play.busy import busy_history
from tests.simulation.play.story import Story


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_slow_fsyncs_and_stalls_and_restarted_followers_unseat_no_leader(seed: int) -> None:
    assert not busy_history(Story(seed), for_s=60.0).failure
