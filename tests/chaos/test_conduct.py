"""What could not be run is never told as if it had been."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chaos.arena import Arena
from chaos.conduct import conduct
from chaos.nemeses.kill import KillLeader
from chaos.nemesis import Deed, Nemesis, Transport
from chaos.profiles import exit_code
from chaos.result import Verdict, read_results
from chaos.run import Plan
from chaos.scenario import Scenario


class Earthquake(Nemesis):
    name = "earthquake"
    faults = ("F25",)
    summary = "shakes the building"

    def needs(self) -> str | None:
        return "there is no building"

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        raise AssertionError("it cannot run here")


def plan_of(*nemeses: type[Nemesis], duration_s: float = 0) -> Plan:
    scenario = Scenario(name="shaken", summary="", nemeses=nemeses)
    return Plan(scenario=scenario, seed=5, duration_s=duration_s, transport=Transport.PROCESSES)


async def test_a_scenario_that_cannot_run_here_is_told_with_its_reason(tmp_path: Path) -> None:
    heard: list[str] = []

    result = await conduct(plan_of(Earthquake), tmp_path, heard.append)

    assert (result.verdict, result.reason) == (Verdict.NOT_RUN, "there is no building")
    assert not result.well
    assert read_results(tmp_path) == [result]
    assert exit_code([result], strict=True) == 1


@pytest.mark.cluster
async def test_a_killed_leader_is_injected_judged_and_told_beside_what_could_not_run(
    tmp_path: Path,
) -> None:
    heard: list[str] = []

    result = await conduct(plan_of(Earthquake, KillLeader), tmp_path, heard.append)

    assert result.verdict is Verdict.KEPT, "\n".join([*result.violations, result.reason])
    assert result.injected == {"kill-leader": 1}
    assert result.not_injected == {"earthquake": "there is no building"}
    assert any("kill-leader: killed n" in line for line in heard)
    assert result.calls > 100
    assert result.outage_median_s is not None
    assert read_results(tmp_path) == [result]
