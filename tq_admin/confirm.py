"""Asking for confirmation before an irreversible change."""

from __future__ import annotations

import sys
from typing import Annotated, TypeAlias

import typer

from tq_admin.failures import ExitCode, Failure
from tq_common.visible import visible

YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def somebody_is_there() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Raise Failure unless a person, or --yes, agrees; asks on stderr, apart from the results."""
    if yes:
        return
    if not somebody_is_there():
        raise Failure(
            f"nobody is there to ask: {question}", "Say so beforehand with --yes.", ExitCode.USAGE
        )
    if not typer.confirm(visible(question), err=True):
        raise Failure("nothing was changed")
