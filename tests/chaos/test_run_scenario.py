"""What could not be run is never told as if it had been."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chaos.context import Injected, RunContext
from chaos.nemeses.kill import KillLeader
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.run.profiles import exit_code
from chaos.run.result import Verdict, read_results
from chaos.run.run import Plan
from chaos.run_scenario import run_scenario
from chaos.scenario import Scenario


class Earthquake(Nemesis):
    name = "earthquake"
    faults = ("F25",)
    summary = "shakes the building"

    def needs(self) -> str | None:
        return "there is no building"

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        raise AssertionError("it cannot run here")


def plan_of(*nemeses: type[Nemesis], duration_s: float = 0) -> Plan:
    scenario = Scenario(name="shaken", summary="", nemeses=nemeses)
    return Plan(scenario=scenario, seed=5, duration_s=duration_s, transport=Transport.PROCESSES)


async def test_a_scenario_that_cannot_run_here_is_told_with_its_reason(tmp_path: Path) -> None:
    heard: list[str] = []

    result = await run_scenario(plan_of(Earthquake), tmp_path, heard.append)

    assert (result.verdict, result.reason) == (Verdict.NOT_RUN, "there is no building")
    assert not result.well
    assert read_results(tmp_path) == [result]
    assert exit_code([result], strict=True) == 1


@pytest.mark.cluster
async def test_a_killed_leader_is_injected_judged_and_told_beside_what_could_not_run(
    tmp_path: Path,
) -> None:
    heard: list[str] = []

    result = await run_scenario(plan_of(Earthquake, KillLeader), tmp_path, heard.append)

    assert result.verdict is Verdict.KEPT, "\n".join([*result.violations, result.reason])
    assert result.injected == {"kill-leader": 1}
    assert result.not_injected == {"earthquake": "there is no building"}
    assert any("kill-leader: killed n" in line for line in heard)
    assert result.calls > 100
    assert result.outage_median_s is not None
    assert read_results(tmp_path) == [result]
