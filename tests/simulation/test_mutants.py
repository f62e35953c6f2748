"""The seeds catch the bugs that are planted in every node, and soon.

`python -m tests.simulation mutants` prints what each showed.
"""

from __future__ import annotations

import pytest

from tests.simulation.play.mutants import PLANTED, RULES_OFF, SEEDS_MAX, Mutant

SOON = 60
BY_SEEDS = ("R4 off", "R5 off", "R8 off", "R13 off")
"""Rules without which histories break promises soon. The others have directed scenarios."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [*PLANTED, *(mutant for mutant in RULES_OFF if mutant.name in BY_SEEDS)],
    ids=lambda mutant: mutant.name,
)
def test_a_planted_bug_is_caught_by_the_first_seeds(mutant: Mutant) -> None:
    assert SOON < SEEDS_MAX
    assert mutant.first_caught(SOON) is not None
