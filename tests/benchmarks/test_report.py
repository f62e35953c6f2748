"""What the benchmarks say of what they measured."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.figures import Figure, percentile
from benchmarks.report import print_table, write_json, write_markdown

FIGURES = [
    Figure(name="rate", value=9_999, unit="tasks/s", target=10_000, more_is_better=True),
    Figure(name="wait", value=2.5, unit="ms", target=3),
    Figure(name="aside", value=7, unit="ms"),
]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.0
    assert percentile(range(1, 101), 99) == 99
    assert percentile(range(1, 101), 100) == 100
    assert percentile([7.0], 1) == 7.0


def test_a_percentile_of_nothing_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_the_table_shows_each_figure_next_to_its_target_and_whether_it_was_met() -> None:
    text = io.StringIO()

    print_table(Console(file=text, width=120), {"date": "today"}, FIGURES)

    rows = {line.split()[1]: line for line in text.getvalue().splitlines() if "│" in line}
    assert "date: today" in text.getvalue()
    assert "9,999 tasks/s" in rows["rate"]
    assert "≥ 10,000 tasks/s" in rows["rate"]
    assert " no " in rows["rate"]
    assert "< 3 ms" in rows["wait"]
    assert " yes " in rows["wait"]
    assert " yes " not in rows["aside"]
    assert " no " not in rows["aside"]


def test_the_json_says_what_the_table_says(tmp_path: Path) -> None:
    write_json(tmp_path / "figures.json", {"date": "today"}, FIGURES)

    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["machine"] == {"date": "today"}
    assert [(row["name"], row["met"]) for row in written["figures"]] == [
        ("rate", False),
        ("wait", True),
        ("aside", None),
    ]


def test_the_markdown_says_what_was_run_when_and_on_what(tmp_path: Path) -> None:
    machine = {"command": "python -m benchmarks", "date": "today", "cpu": "a fast one"}

    write_markdown(tmp_path / "table.md", machine, FIGURES)

    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "`python -m benchmarks`, today"
    assert "- cpu: a fast one" in lines
    assert "| rate | 9,999 tasks/s | ≥ 10,000 tasks/s |  |" in lines
    assert "| aside | 7.00 ms |  |  |" in lines
