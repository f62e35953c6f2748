"""An option of a command line that is a length of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from tq_common import durations


def span_option(*flags: str, least_s: float, help: str, default: str = "") -> Any:  # noqa: A002, ANN401 - as typer's
    """Return a `typer.Option` that is a length of time, as `durations.parse` reads it, in seconds.

    Less than ``least_s`` is a usage error. ``default`` is how the help writes the parameter's
    default, which is a number of seconds.
    """
    return typer.Option(
        *flags,
        metavar="SPAN",
        parser=_seconds(least_s),
        show_default=False,
        help=f"{help} Default: {default}." if default else help,
    )


def _seconds(least_s: float) -> Callable[[str | float], float]:

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
