"""What stands in the list can be run, told apart and repeated."""

from __future__ import annotations

import itertools
import re

from chaos.nemeses.nemesis import Transport
from chaos.run.profiles import Profile, plans
from chaos.run.run import Plan
from chaos.scenario import Family
from chaos.scenarios import all_scenarios


def test_every_scenario_names_faults_of_the_catalogue() -> None:
    for scenario in all_scenarios().values():
        assert re.fullmatch(r"[a-z0-9-]+", scenario.name)
        assert all(re.fullmatch(r"F(1?[0-9]|2[0-9]|30)", fault) for fault in scenario.faults)


def test_nemeses_of_one_name_are_one_and_the_same() -> None:
    makers = {make for scenario in all_scenarios().values() for make in scenario.nemeses}

    names = [make().name for make in makers]

    assert len(names) == len(set(names))


def test_the_ci_profile_ends_and_the_nightly_one_goes_on_with_new_seeds() -> None:
    scenarios = list(all_scenarios().values())
    twice = 2 * len(scenarios)

    ci = list(plans(Profile.CI, 1, scenarios))
    nightly = list(itertools.islice(plans(Profile.NIGHTLY, 1, scenarios), twice))

    assert [plan.scenario for plan in ci] == [one for one in scenarios if one.in_ci]
    assert len(nightly) == twice
    assert nightly[0].scenario is nightly[len(scenarios)].scenario
    assert nightly[0].seed != nightly[len(scenarios)].seed


def test_the_abuse_profile_goes_on_with_its_family_alone() -> None:
    scenarios = list(all_scenarios().values())
    family = [one for one in scenarios if one.family is Family.ABUSE]

    abuse = list(itertools.islice(plans(Profile.ABUSE, 1, scenarios), 2 * len(family)))

    assert [plan.scenario for plan in abuse] == family * 2
    assert {fault for one in family for fault in one.faults} >= {"F26", "F27", "F28", "F29"}


def test_a_profile_draws_the_same_seeds_again_from_its_own() -> None:
    scenarios = list(all_scenarios().values())

    first = [plan.seed for plan in plans(Profile.CI, 7, scenarios)]

    assert first == [plan.seed for plan in plans(Profile.CI, 7, scenarios)]


def test_a_plan_tells_the_command_that_repeats_it() -> None:
    scenario = all_scenarios()["kill"]
    plan = Plan(scenario=scenario, seed=41, duration_s=12.5, transport=Transport.PROCESSES)

    assert plan.command == (
        "python -m chaos run --scenario kill --seed 41 --duration 12.5 --transport processes"
    )
