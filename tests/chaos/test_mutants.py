"""Planted bugs: every one can be planted by the tests, and by nothing that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from chaos.run import profiles
from chaos.run.mutants import BUG_VARIABLE, MUTANTS, by_name
from chaos.scenarios import all_scenarios
from tests.kill.mutant_broker import BUGS
from tests.simulation.play.mutants import PLANTED, SEEDS_MAX
from tests.simulation.world.checker import Invariant

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("tq_cluster", "tq_client", "tq_common", "tq_process", "tq_worker", "tq_admin")


def test_every_bug_of_the_table_can_be_planted_and_is_hunted_somewhere() -> None:
    assert {mutant.bug for mutant in MUTANTS} == set(BUGS)
    assert {mutant.scenario for mutant in MUTANTS} - {""} <= set(all_scenarios())
    simulated = {mutant.bug for mutant in MUTANTS if not mutant.scenario}
    assert simulated <= {mutant.name for mutant in PLANTED}


@pytest.mark.slow
def test_a_bug_without_a_scenario_is_caught_by_a_seed_of_the_simulation(tmp_path: Path) -> None:
    found = profiles.hunt(by_name("truncation on overlap"), 1, tmp_path, Console(quiet=True))

    assert found.caught
    assert found.where == f"simulation, seed {found.seeds - 1}"
    assert found.seeds <= SEEDS_MAX
    assert found.promises == (Invariant.DURABILITY,)


def test_a_bug_that_no_seed_catches_is_told_as_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"name": "truncation on overlap", "caught": False, "seeds": 200}
    monkeypatch.setattr(profiles, "SIMULATION", ("-c", f"print({json.dumps(told)!r})"))

    found = profiles.hunt(by_name("truncation on overlap"), 1, tmp_path, Console(quiet=True))

    assert not found.caught
    assert (found.where, found.seeds) == ("simulation: by no seed", 200)


def test_a_hunt_that_dies_is_no_catch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "SIMULATION", ("-c", "raise SystemExit(1)"))

    with pytest.raises(json.JSONDecodeError):
        profiles.hunt(by_name("truncation on overlap"), 1, tmp_path, Console(quiet=True))


def test_the_documentation_says_where_each_bug_is_caught() -> None:
    documented = (ROOT / "docs" / "chaos.md").read_text()

    for mutant in MUTANTS:
        where = f"`{mutant.scenario}`" if mutant.scenario else "the simulation"
        assert f"| {mutant.bug} | {mutant.fault} | {where} |" in documented


def test_nothing_that_ships_knows_of_planted_bugs() -> None:
    sources = [path for folder in SHIPPED for path in (ROOT / folder).rglob("*.py")]

    assert len(sources) > 50
    assert not [path for path in sources if BUG_VARIABLE in path.read_text()]


def test_an_unknown_bug_is_answered_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no bug 'earthquake'; there are: no fsync, no token"):
        by_name("earthquake")
