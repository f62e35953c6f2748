"""The result of a run, in a form that a file can hold."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LINES = "runs.jsonl"
"""The file to which each run appends its line."""


class Verdict(enum.StrEnum):
    """How a run ended."""

    KEPT = "kept"
    """Every promise was kept."""
    BROKEN = "broken"
    NOT_RUN = "not run"
    """This machine lacks something; nothing was tried, nothing is known."""
    ERROR = "error"
    """The suite itself failed."""


@dataclass(slots=True, kw_only=True)
class Result:
    """One line of ``runs.jsonl``."""

    scenario: str
    transport: str
    seed: int
    faults: list[str]
    mutant: str = ""
    """The bug that was planted; the expected verdict is then BROKEN."""
    verdict: Verdict
    reason: str = ""
    """Why it was not run, or what failed."""
    started_at: str = ""
    took_s: float = 0.0
    command: str = ""
    violations: list[str] = field(default_factory=list)
    injected: dict[str, int] = field(default_factory=dict)
    """How often each nemesis struck."""
    not_injected: dict[str, str] = field(default_factory=dict)
    """Which nemeses of the scenario cannot run here, and why."""
    calls: int = 0
    unanswered: int = 0
    tasks: int = 0
    outage_median_s: float | None = None
    outage_max_s: float | None = None
    needless_elections: int = 0
    """How often the leader changed without a fault during or just before the change."""
    report: str = ""

    @property
    def well(self) -> bool:
        """Whether the run took place and kept every promise."""
        return self.verdict is Verdict.KEPT

    def append_to(self, out: Path) -> None:
        """Append the line to the file."""
        with (out / LINES).open("a") as lines:
            lines.write(json.dumps(asdict(self)) + "\n")


def read_results(out: Path) -> list[Result]:
    """Read every line of a folder of reports, in the order of their runs."""
    path = out / LINES
    if not path.exists():
        return []
    found: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [Result(**{**line, "verdict": Verdict(line["verdict"])}) for line in found]
