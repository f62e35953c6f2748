"""What the check found: the table, and the same as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.regression.judge import LEVEL, Judgement, Verdict
from benchmarks.regression.pairs import BASE, HEAD, WORKLOADS, Run

COLOURS = {Verdict.PASSED: "green", Verdict.UNSURE: "yellow", Verdict.SLOWER: "bold red"}


def print_table(console: Console, described: Mapping[str, str], run: Run) -> None:
    """Print each workload with both sides, the ratio, its interval and the verdict."""
    for name, value in described.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True, markup=False, style=None)
    table = Table(title="processor time a task", title_justify="left")
    table.add_column("what")
    table.add_column("base", justify="right")
    table.add_column("head", justify="right")
    table.add_column("head / base", justify="right")
    table.add_column(f"{LEVEL:.0%} interval", justify="right")
    table.add_column(f"limit {run.limit:.2f}")
    table.add_column("by process", overflow="fold")
    for workload in WORKLOADS:
        found = run.judgements[workload.name]
        groups = ", ".join(f"{name} {ratio:.2f}" for name, ratio in run.by_group(workload).items())
        table.add_row(
            workload.says,
            f"{run.each_ms(workload, BASE):.3f} ms",
            f"{run.each_ms(workload, HEAD):.3f} ms",
            f"{found.ratio:.3f}",
            interval(found),
            f"[{COLOURS[found.verdict]}]{found.verdict.value}[/]",
            groups,
        )
    console.print(table)


def interval(found: Judgement) -> str:
    """Write the interval, if the pairs are enough for one."""
    if math.isinf(found.high):
        return "too few pairs"
    return f"{found.low:.3f} to {found.high:.3f}"


def write_json(
    path: Path,
    described: Mapping[str, str],
    run: Run,
    rates: Mapping[float, Mapping[Verdict, float]] | None,
) -> None:
    """Write what the table shows and every pair, for a program to read."""
    whole: dict[str, Any] = {
        "machine": dict(described),
        "limit": run.limit,
        "level": LEVEL,
        "verdict": run.verdict.value,
        "ended": run.ended,
        "workloads": {
            each.name: {
                "says": each.says,
                "base_ms": run.each_ms(each, BASE),
                "head_ms": run.each_ms(each, HEAD),
                **_judgement(run.judgements[each.name]),
                "by_process": run.by_group(each),
            }
            for each in WORKLOADS
        },
        "pairs": [asdict(pair) for pair in run.pairs],
    }
    if rates is not None:
        whole["replayed"] = {
            f"{times:g}": {verdict.value: share for verdict, share in each.items()}
            for times, each in rates.items()
        }
    path.write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n")


def _judgement(found: Judgement) -> dict[str, object]:
    known = not math.isinf(found.high)
    return {
        "verdict": found.verdict.value,
        "ratio": found.ratio,
        "low": found.low if known else None,
        "high": found.high if known else None,
    }
