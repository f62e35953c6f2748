"""The table, and the same as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure

ABOUT_THE_MACHINE = ("cpu", "memory", "system", "disk", "other programs")


def print_table(console: Console, machine: Mapping[str, str], figures: Sequence[Figure]) -> None:
    """Print every figure next to its target."""
    for name, value in machine.items():
        console.print(f"[bold]{name}[/]: {value}", highlight=False, soft_wrap=True)
    table = Table(title="tq benchmarks", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("met", justify="center")
    table.add_column("detail", overflow="fold")
    for figure in figures:
        table.add_row(
            figure.name,
            _amount(figure.value, figure.unit),
            _target(figure),
            _met(figure),
            figure.detail,
        )
    console.print(table)


def write_markdown(path: Path, machine: Mapping[str, str], figures: Sequence[Figure]) -> None:
    """Write the table as the README has it."""
    lines = [f"`{machine['command']}`, {machine['date']}", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items() if name in ABOUT_THE_MACHINE]
    lines += ["", "| what | measured | target | |", "| --- | ---: | ---: | --- |"]
    lines += [
        f"| {figure.name} | {_amount(figure.value, figure.unit)} | {_target(figure)}"
        f" | {figure.detail} |"
        for figure in figures
    ]
    path.write_text("\n".join(lines) + "\n")


def write_json(path: Path, machine: Mapping[str, str], figures: Sequence[Figure]) -> None:
    """Write what the table shows, for a program to read."""
    rows = [{**asdict(figure), "met": figure.met} for figure in figures]
    path.write_text(json.dumps({"machine": dict(machine), "figures": rows}, indent=2) + "\n")


def _amount(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{number} {unit}"


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return f"{'≥' if figure.more_is_better else '<'} {figure.target:,g} {figure.unit}"


def _met(figure: Figure) -> str:
    if figure.met is None:
        return ""
    return "[green]yes[/]" if figure.met else "[bold red]no[/]"
