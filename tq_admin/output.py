"""The output of a command: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tq_admin.grid import Grid
from tq_common.visible import rewritten, visible

# Wide enough that a table sent to a file or a pipe is not cut to a terminal's 80 columns.
PIPE_COLUMNS = 200
UNIT_STEP = 1_000
PRECISE_MS = 10
PRECISE_RATE = 10
PRECISE_S = 10

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
    "BROKEN": "red",
    "HOLDS": "green",
}


class Format(enum.StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Output:
    """Prints one command's results to stdout, and remarks about them to stderr."""

    def __init__(self, format_: Format, *, stream: bool = False) -> None:
        """``stream``: readings follow each other, separated by lines or document marks."""
        self.format = format_
        self._stream = stream

    def show(self, data: Any, table: Callable[[], RenderableType]) -> None:  # noqa: ANN401 - plain data
        """Print the data as asked; `table` draws it for people."""
        match self.format:
            case Format.JSON:
                indent = None if self._stream else 2
                text = json.dumps(data, ensure_ascii=False, indent=indent)
                # Invisible characters occur only in strings, which may contain escapes.
                sys.stdout.write(rewritten(text, _as_json, kept="\n") + "\n")
            case Format.YAML:
                sys.stdout.write("---\n" if self._stream else "")
                text = yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
                sys.stdout.write(rewritten(text, _as_yaml, kept="\n"))
            case Format.TABLE:
                _console(stderr=False).print(table())

    def remark(self, text: str) -> None:
        """Print a remark to stderr, which is not part of the result; one line if no terminal."""
        console = _console(stderr=True)
        console.print(Text(visible(text)), soft_wrap=not console.is_terminal)


class Screenful(Output):
    """Gathers a command's output, for a screen that is drawn as a whole."""

    def __init__(self) -> None:
        super().__init__(Format.TABLE)
        self.shown: list[RenderableType] = []

    def show(self, data: Any, table: Callable[[], RenderableType]) -> None:  # noqa: ANN401, ARG002 - as above
        """Keep the table."""
        self.shown.append(table())

    def remark(self, text: str) -> None:
        """Keep the remark, to show it below the table."""
        self.shown.append(Text(visible(text), style="dim"))


def grid(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Collection[str] = (),
    elastic: str = "",
    optional: Sequence[str] = (),
) -> Grid:
    """A table whose numbers, and the columns in ``right``, are right-aligned.

    If it is too wide, the ``optional`` columns are left out in turn, then ``elastic`` is cut.
    """
    numeric = {
        column
        for place, column in enumerate(columns)
        if {type(row[place]) for row in rows if row[place] != "-"} == {int}
    }
    return Grid(
        columns,
        [[cell(value) for value in row] for row in rows],
        right=frozenset(numeric | set(right)),
        elastic=elastic,
        optional=optional,
    )


def details(pairs: Sequence[tuple[str, object]]) -> Table:
    """A table of the properties of one object, one per line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, cell(value))
    return table


def cell(value: object) -> Text:
    """A value for people; never interpreted as markup, and on one line.

    A value that may have several lines is passed as a Text, such as `prose` makes.
    """
    match value:
        case None | "":
            return Text("-", style="dim")
        case bool():
            return Text("yes" if value else "NO", style="" if value else "bold red")
        case dict():
            return Text(visible(" ".join(f"{key}={item}" for key, item in value.items())) or "-")
        case Text():
            return value
        case _:
            return Text(visible(str(value)), style=STATE_STYLES.get(str(value), ""))


def prose(text: str) -> Text:
    """Text of several lines, without characters that would control the terminal."""
    return Text(visible(text, lines=True))


def instant(value: str | None) -> str:
    """An RFC 3339 instant to the second, in UTC, with its distance from now."""
    if value is None:
        return ""
    return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S}Z ({distance(value)})"


def distance(value: str | None) -> str:
    """The distance of an RFC 3339 instant from now, short enough for a table."""
    if value is None:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def took(started: str | None, ended: str | None) -> str:
    """The time between two RFC 3339 instants; empty if one is missing."""
    if started is None or ended is None:
        return ""
    length = datetime.fromisoformat(ended) - datetime.fromisoformat(started)
    seconds = length.total_seconds()
    return f"{seconds:.2f} s" if seconds < PRECISE_S else span(seconds)


def span(seconds: float) -> str:
    """A length of time in a suitable unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def latency(value: str | None) -> str:
    """A short Duration as protobuf writes it, "0.000512s", in milliseconds."""
    if value is None:
        return ""
    milliseconds = float(value.removesuffix("s")) * 1000
    return f"{milliseconds:.2f} ms" if milliseconds < PRECISE_MS else f"{milliseconds:.0f} ms"


def size(amount: int) -> str:
    """A number of bytes in a suitable unit."""
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if value < UNIT_STEP:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= UNIT_STEP
    return f"{value:.1f} TB"


def rate(per_s: float, unit: str = "/s") -> str:
    """A rate per second; a dot for zero."""
    if per_s == 0:
        return "·"
    return f"{per_s:,.0f}{unit}" if per_s >= PRECISE_RATE else f"{per_s:.1f}{unit}"


class _Dumper(yaml.SafeDumper):
    """Double-quotes strings with invisible characters: YAML has escapes only there."""


def _represent(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    hides = rewritten(text, lambda _: "", kept="\n") != text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if hides else None)


_Dumper.add_representer(str, _represent)


def _as_json(character: str) -> str:
    return json.dumps(character)[1:-1]


def _as_yaml(character: str) -> str:
    return f"\\U{ord(character):08X}"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False)
