"""The suite's command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from chaos.cli import app
from chaos.cluster.netlab import INSIDE_VARIABLE, NETLAB_VARIABLE
from chaos.run.result import Verdict, read_results
from chaos.scenarios import all_scenarios

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_every_scenario_is_listed_with_its_faults() -> None:
    told = run("list").output

    assert re.search(r"kill\s+│ F1\s", told)
    assert re.search(r"partition\s+│ F4\s", told)


def test_a_scenario_without_its_tool_is_told_as_not_run_and_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NETLAB_VARIABLE, str(tmp_path / "nowhere"))
    monkeypatch.delenv(INSIDE_VARIABLE, raising=False)

    ended = run("run", "--scenario", "partition", "--seed", "1", "--out", str(tmp_path))

    assert ended.exit_code == 3
    assert "not run" in ended.output
    [result] = read_results(tmp_path)
    assert result.verdict is Verdict.NOT_RUN
    assert result.reason
    told = run("report", "--out", str(tmp_path)).output
    assert "not run" in told


def test_an_unknown_scenario_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    ended = run("run", "--scenario", "earthquake", "--out", str(tmp_path))

    assert ended.exit_code == 2
    assert "there is no scenario 'earthquake'" in ended.output
    assert "partition" in ended.output


def test_an_empty_folder_has_no_report(tmp_path: Path) -> None:
    ended = run("report", "--out", str(tmp_path))

    assert ended.exit_code == 2
    assert "there is no run in" in ended.output


def test_the_documentation_tells_of_each_scenario_the_faults_that_it_has() -> None:
    documented = (ROOT / "docs" / "chaos.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([F0-9 ]+) \|", documented, re.MULTILINE))

    scenarios = all_scenarios()

    assert len(rows) > 20
    assert rows == {name: " ".join(scenarios[name].faults) for name in rows}


def test_the_ci_profile_has_every_fault_that_any_scenario_has() -> None:
    scenarios = all_scenarios().values()

    in_ci = {fault for one in scenarios if one.in_ci for fault in one.faults}

    assert in_ci == {fault for one in scenarios for fault in one.faults}
