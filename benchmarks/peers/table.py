"""The table of all systems, and the same as Markdown and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.peers.rounds import Row
from benchmarks.peers.workloads import WORKLOADS, Metric, Sizes, Workload
from benchmarks.report import ABOUT_THE_MACHINE

DASH: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of the rounds, the least and the most."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None if no round gave a value."""
        if not values:
            return None
        return cls(
            median=statistics.median(values),
            least=min(values),
            most=max(values),
            rounds=len(values),
        )


@dataclass(slots=True)
class Footnotes:
    """Texts with numbers, in the order of their first use."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        """Return the number of a text, the same for the same text."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def metrics() -> Iterator[tuple[Workload, Metric]]:
    """Yield the columns of the table."""
    for workload in WORKLOADS:
        for metric in workload.metrics:
            yield workload, metric


def spread(row: Row, workload: Workload, metric: Metric) -> Spread | None:
    """Return a cell's value."""
    outcomes = row.outcomes.get(workload.name, [])
    return Spread.of([each.values[metric.key] for each in outcomes if metric.key in each.values])


def remarks(row: Row, workload: Workload) -> list[str]:
    """Say what a reader must know about a cell."""
    if row.skipped is not None:
        return []
    if workload.name in row.system.lacks:
        return [row.system.lacks[workload.name]]
    found = [row.system.notes[workload.name]] if workload.name in row.system.notes else []
    outcomes = row.outcomes.get(workload.name, [])
    found += [
        f"{row.system.name}, round {number}: {outcome.fault}"
        for number, outcome in enumerate(outcomes, 1)
        if outcome.fault is not None
    ]
    return found


def print_table(console: Console, machine: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Print the figures, what each system promises, and the footnotes."""
    for name, value in machine.items():
        console.print(f"[bold]{name}[/]: {escape(value)}", highlight=False, soft_wrap=True)
    footnotes = Footnotes()
    figures = Table(title="median; least to most of the rounds", title_justify="left")
    figures.add_column("system", overflow="fold")
    for _, metric in metrics():
        figures.add_column(f"{metric.title}, {metric.unit}", justify="right")
    for row in rows:
        figures.add_row(_named(row, "\n"), *_cells(row, footnotes, "\n", ("[dim]", "[/]")))
    console.print(figures)
    meanings = Table(title="what was measured", title_justify="left")
    for title in MEANINGS:
        meanings.add_column(title, overflow="fold")
    for row in rows:
        meanings.add_row(*map(escape, _meaning(row)))
    console.print(meanings)
    for number, text in enumerate(footnotes.texts, 1):
        console.print(f"{number}: {escape(text)}", highlight=False, soft_wrap=True)


def write_markdown(path: Path, machine: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write the table as the README can have it."""
    footnotes = Footnotes()
    lines = [f"`{machine['command']}`, {machine['date']}", ""]
    about = (*ABOUT_THE_MACHINE, "rounds")
    lines += [f"- {name}: {value}" for name, value in machine.items() if name in about]
    titles = [f"{metric.title}, {metric.unit}" for _, metric in metrics()]
    lines += ["", "Each cell: the median of the rounds (least to most).", ""]
    lines += _line("system", *titles), _line("---", *["---:"] * len(titles))
    for row in rows:
        lines.append(_line(_named(row, ": "), *_cells(row, footnotes, " ", ("<sup>", "</sup>"))))
    lines += ["", _line(*MEANINGS), _line(*["---"] * len(MEANINGS))]
    lines += [_line(*_meaning(row)) for row in rows]
    lines += ["", *(f"{number}. {text}" for number, text in enumerate(footnotes.texts, 1))]
    path.write_text("\n".join(lines).rstrip() + "\n")


def write_json(path: Path, machine: Mapping[str, str], sizes: Sizes, rows: Sequence[Row]) -> None:
    """Write every round's values, for a program to read."""
    written = [
        {
            "system": row.system.name,
            "skipped": row.skipped,
            **dict(zip(MEANINGS[1:], _meaning(row)[1:], strict=True)),
            "cells": {
                metric.key: {
                    "title": metric.title,
                    "unit": metric.unit,
                    "spread": _as_dict(spread(row, workload, metric)),
                    "rounds": [
                        outcome.values.get(metric.key)
                        for outcome in row.outcomes.get(workload.name, [])
                    ],
                    "remarks": remarks(row, workload),
                }
                for workload, metric in metrics()
            },
        }
        for row in rows
    ]
    whole = {"machine": dict(machine), "sizes": asdict(sizes), "systems": written}
    path.write_text(json.dumps(whole, indent=2) + "\n")


MEANINGS: Final = (
    "system",
    "servers",
    "an answer to a submit means",
    "client",
    "worker",
    "version",
    "cores taken by other programs",
)


def _meaning(row: Row) -> list[str]:
    system = row.system
    last = row.versions or (f"skipped: {row.skipped}" if row.skipped else "")
    return [
        system.name,
        system.servers,
        system.durability,
        system.client,
        system.worker or DASH,
        last,
        ", ".join(f"{share:.0%}" for share in row.others) or DASH,
    ]


def _named(row: Row, separator: str) -> str:
    if row.skipped is None:
        return row.system.name
    return f"{row.system.name}{separator}skipped, {row.skipped}"


def _cells(row: Row, footnotes: Footnotes, separator: str, marks: tuple[str, str]) -> Iterator[str]:
    opening, closing = marks
    for workload, metric in metrics():
        found = spread(row, workload, metric)
        text = DASH if found is None else _amount(found.median)
        numbers = [str(footnotes.number(remark)) for remark in remarks(row, workload)]
        if numbers:
            text += f" {opening}{','.join(numbers)}{closing}"
        if found is not None and found.rounds > 1:
            text += f"{separator}({_amount(found.least)} to {_amount(found.most)})"
        yield text


def _amount(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _as_dict(found: Spread | None) -> dict[str, float] | None:
    return None if found is None else asdict(found)
