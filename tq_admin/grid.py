"""Tables that fit the terminal: they leave columns out and say which, and never cut an id."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2
LEAST = 12
"""The least width of an elastic column; less would be useless."""


class Grid:
    """Rows under heads, drawn to the width of the terminal."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Text]],
        *,
        right: frozenset[str],
        elastic: str,
        optional: Sequence[str],
    ) -> None:
        """``optional`` columns are left out in turn if needed; then ``elastic`` is cut."""
        self._columns = columns
        self._rows = rows
        self._right = right
        self._elastic = elastic
        self._optional = optional
        self._natural = {
            column: max([len(column), *(row[place].cell_len for row in rows)])
            for place, column in enumerate(columns)
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it; rich calls this."""
        shown, left_out = self._fitting(options.max_width)
        widths = self._widths(shown, options.max_width)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
        for column in shown:
            elastic = column == self._elastic
            table.add_column(
                column,
                justify="right" if column in self._right else "left",
                width=widths[column],
                no_wrap=elastic,
                overflow="ellipsis" if elastic else "fold",
            )
        places = [self._columns.index(column) for column in shown]
        for row in self._rows:
            table.add_row(*(row[place] for place in places))
        yield table
        if left_out:
            yield Text(f"Not shown, for want of width: {', '.join(left_out)}", style="dim")

    def _fitting(self, width: int) -> tuple[list[str], list[str]]:
        shown, left_out = list(self._columns), []
        for column in self._optional:
            if self._least(shown) <= width:
                break
            shown.remove(column)
            left_out.append(column)
        return shown, left_out

    def _least(self, columns: Sequence[str]) -> int:
        needed = (
            min(self._natural[column], LEAST) if column == self._elastic else self._natural[column]
            for column in columns
        )
        return sum(needed) + GAP * (len(columns) - 1)

    def _widths(self, columns: Sequence[str], width: int) -> dict[str, int]:
        """The elastic column takes the remaining width; if that is too little, fold the first."""
        widths = {column: self._natural[column] for column in columns}
        for column, least in ((self._elastic, LEAST), (columns[0], LEAST)):
            excess = sum(widths.values()) + GAP * (len(columns) - 1) - width
            if excess > 0 and column in widths:
                widths[column] = max(min(least, widths[column]), widths[column] - excess)
        return widths
