"""Says what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from tq_common.visible import visible


def complain(problems: Sequence[str]) -> None:
    """Print problems, which can quote text that others have written, to standard error."""
    for problem in problems:
        typer.echo(visible(f"tq-worker: {problem}", lines=True), err=True)
