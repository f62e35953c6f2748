"""What a command prints: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

# Wide enough that a table sent to a file or a pipe is not cut to a terminal's 80 columns.
PIPE_COLUMNS = 200

STATE_STYLES = {
    "PENDING": "cyan",
    "RUNNING": "blue",
    "RETRYING": "yellow",
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELLED": "dim",
    "LEADER": "bold green",
    "STRANGER": "bold red",
    "FORMING": "yellow",
    "CANDIDATE": "yellow",
}


class Format(enum.StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Output:
    """Prints one command's results to stdout, and remarks about them to stderr."""

    def __init__(self, format_: Format) -> None:
        self.format = format_

    def show(self, data: Any, table: Callable[[], RenderableType]) -> None:  # noqa: ANN401 - plain data
        """Print the data as asked; `table` draws it for people."""
        match self.format:
            case Format.JSON:
                sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")
            case Format.YAML:
                sys.stdout.write(yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
            case Format.TABLE:
                _console(stderr=False).print(table())

    def remark(self, text: str) -> None:
        """Say something that is not part of the result."""
        _console(stderr=True).print(Text(text))


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> Table:
    """A table whose numbers stand to the right."""
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for position, column in enumerate(columns):
        kinds = {type(row[position]) for row in rows if row[position] != "-"}
        numeric = kinds == {int}
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    return table


def details(pairs: Sequence[tuple[str, object]]) -> Table:
    """One thing's properties, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, cell(value))
    return table


def cell(value: object) -> Text:
    """A value as people read it; never interpreted as markup."""
    match value:
        case None | "":
            return Text("-", style="dim")
        case bool():
            return Text("yes" if value else "NO", style="" if value else "bold red")
        case dict():
            return Text(" ".join(f"{key}={item}" for key, item in value.items()) or "-")
        case Text():
            return value
        case _:
            return Text(str(value), style=STATE_STYLES.get(str(value), ""))


def instant(value: str | None) -> str:
    """An RFC 3339 instant to the second, in UTC, with how far from now it is."""
    if value is None:
        return ""
    at = datetime.fromisoformat(value)
    seconds = (datetime.now(UTC) - at).total_seconds()
    distance = f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"
    return f"{at:%Y-%m-%d %H:%M:%S}Z ({distance})"


def span(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False)
