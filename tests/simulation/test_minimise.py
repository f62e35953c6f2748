"""A failing story is made as short as it can be, and told with the command that shows it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from unittest import mock

import pytest

from tests.simulation.play import campaign
from tests.simulation.play.minimise import minimise
from tests.simulation.play.runs import SCRIPT, protocol_history
from tests.simulation.play.story import History, Story
from tq_cluster.raft.settings import RaftSettings, Rules


@pytest.mark.parametrize("needed", [set(), {0}, {7, 8}, {3, 40, 41, 99}])
def test_what_is_left_is_what_it_takes(needed: set[int]) -> None:
    def fails(kept: Iterable[int]) -> bool:
        return needed <= set(kept)

    assert minimise(range(100), fails, within_s=60) == needed


def test_when_the_time_is_up_what_was_found_so_far_is_told() -> None:
    assert minimise(range(100), lambda _kept: True, within_s=-1) == frozenset(range(100))


@pytest.mark.slow
def test_a_failing_seed_is_told_in_few_steps_with_the_command_that_shows_it() -> None:
    settings = RaftSettings(rules=Rules(confirm_by_rounds=False))

    def broken(story: Story) -> History:
        return protocol_history(story, settings=settings)

    with mock.patch.object(campaign, "history", broken):
        failing = next(story for story in map(Story, range(20)) if broken(story).error)
        told = campaign.tell(failing, within_s=math.inf)

    shortest = re.search(r"the shortest: python -m tests.simulation show (\d+) --only (\S+)", told)
    assert shortest is not None, told
    kept = {int(number) for number in shortest[2].split(",")}
    assert len(kept) < 10 < len(failing.steps(SCRIPT))
    again = broken(Story(int(shortest[1])).only(kept))
    assert again.failure in told
    assert "a stale read" in again.failure
