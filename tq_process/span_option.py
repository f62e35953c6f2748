"""An option of a command line that is a length of time."""

from __future__ import annotations

from collections.abc import Callable

import typer

from tq_common import durations


def seconds(least_s: float) -> Callable[[str | float], float]:
    """Return a parser for `typer.Option`: a length of time as `durations.parse` reads it.

    It returns seconds; less than ``least_s`` is a usage error. A default is a number of seconds.
    """

    def parse(text: str | float) -> float:
        if isinstance(text, int | float):
            return float(text)
        try:
            seconds = durations.parse(text).total_seconds()
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if seconds < least_s:
            raise typer.BadParameter(f"{text} is too short: {least_s:g}s is the least")
        return seconds

    return parse
