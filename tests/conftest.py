"""Fixtures and hooks for all tests, even if several processes run them at a time."""

from __future__ import annotations

import os
from typing import Any

import pytest

from chaos.cluster import ports
from tests.simulation.play import campaign
from tests.telling import FIGURES, NOT_RUN

FIRST_SEED, DRAWN_SEED = "TQ_FIRST_SEED", "TQ_TESTS_DRAWN_SEED"


def pytest_configure(config: pytest.Config) -> None:
    """Give each process ports of its own, and all of them the same seeds."""
    first = os.environ.get(FIRST_SEED) or str(campaign.drawn_seed())
    os.environ.setdefault(DRAWN_SEED, first)
    config.stash[NOT_RUN] = []
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        number, of = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        os.environ[ports.VARIABLE] = ports.share(number, of)


def pytest_report_header() -> str:
    """Print how to run the new seeds again."""
    return f"new simulations: {FIRST_SEED}={os.environ[DRAWN_SEED]}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Pass on which tests a worker process cannot run: only the first process prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not run"] = session.config.stash[NOT_RUN]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401  # xdist has no types
    """Take the list of one worker process: all of them collected the same tests."""
    node.config.stash[NOT_RUN] = getattr(node, "workeroutput", {}).get("not run", [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the measurements, and the tests that were not run."""
    told = [
        f"{report.nodeid}:\n  {str(value).strip()}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == FIGURES and report.when == "call"
    ]
    if told:
        terminalreporter.section("measured")
        for each in told:
            terminalreporter.write_line(each)
    for each in config.stash[NOT_RUN]:
        terminalreporter.write_line(f"NOT RUN: {each}", red=True)
