"""Planted bugs: every one can be planted by the tests, and by nothing that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.mutants import BUG_VARIABLE, MUTANTS, by_name
from chaos.scenarios import all_scenarios
from tests.kill.mutant_broker import BUGS

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("tq_cluster", "tq_client", "tq_worker", "tq_admin")


def test_every_bug_of_the_table_can_be_planted_and_has_a_scenario() -> None:
    assert {mutant.bug for mutant in MUTANTS} == set(BUGS)
    assert {mutant.scenario for mutant in MUTANTS} - {""} <= set(all_scenarios())


def test_a_bug_without_a_scenario_names_a_test_that_is_there() -> None:
    for mutant in MUTANTS:
        file, _, name = mutant.directed.partition("::")
        assert bool(mutant.scenario) != bool(file)
        assert not file or f"def {name}(" in (ROOT / file).read_text()


def test_nothing_that_ships_knows_of_planted_bugs() -> None:
    sources = [path for folder in SHIPPED for path in (ROOT / folder).rglob("*.py")]

    assert len(sources) > 50
    assert not [path for path in sources if BUG_VARIABLE in path.read_text()]


def test_an_unknown_bug_is_answered_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no bug 'earthquake'; there are: no fsync, no token"):
        by_name("earthquake")
