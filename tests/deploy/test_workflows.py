"""The hosted workflow runs what `.ci/run` runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BESIDE_THE_GATE = {"chaos", "regression"}
"""What takes too long to stand before every change, with a short one among the gate's tests; and
what measures, which a machine that runs the gate is too busy for."""


def _targets(command: str) -> set[str]:
    """The targets of `make` in a command, those of aggregate ones with them."""
    makefile = (ROOT / "Makefile").read_text()
    found: set[str] = set()
    for target in re.findall(r"\bmake (?:--no-print-directory )?([a-z-]+)", command):
        rule = re.search(rf"^{target}:([^#\n]*)", makefile, re.MULTILINE)
        assert rule, f"there is no make {target}"
        found |= {target, *rule[1].split()}
    return found - {"setup", "protos", "check"}


def test_the_hosted_workflow_runs_every_stage_of_the_gate() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]

    hosted = set.union(*(_targets(step["run"]) for step in steps if "run" in step))

    gate = _targets((ROOT / ".ci" / "run").read_text())
    assert {"lint", "types", "test", "test-compose"} <= gate
    assert hosted == gate | BESIDE_THE_GATE


def test_every_job_has_a_limit_and_reads_only() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())

    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
