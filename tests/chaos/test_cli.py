"""The suite's command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from chaos.cli import app
from chaos.cluster.netlab import INSIDE_VARIABLE, NETLAB_VARIABLE
from chaos.run.result import Verdict, read_results
from chaos.scenarios import all_scenarios
from tests.patience import PATIENCE_S

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


def brokers_in(folder: Path) -> list[int]:
    """The processes of brokers whose files are below ``folder``."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and str(folder) in (process / "cmdline").read_text():
                found.append(int(process.name))
    return found


@pytest.mark.cluster
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_no_broker_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The command alone gets the signal, as from a CI system that gives up, and not its runs."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = ["-m", "chaos", "run", "--profile", "abuse", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until_s = time.monotonic() + PATIENCE_S
        while len(brokers_in(scratch)) < 3:
            assert process.poll() is None
            assert time.monotonic() < until_s, "no brokers"
            time.sleep(0.05)
        process.send_signal(number)

        assert process.wait(PATIENCE_S) == 130
        assert brokers_in(scratch) == []
        assert not list(scratch.iterdir())
    finally:
        process.kill()
        process.wait()
        for left in brokers_in(scratch):
            os.kill(left, signal.SIGKILL)
