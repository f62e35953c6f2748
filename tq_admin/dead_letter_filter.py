"""The options that say which dead letters a command is about."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Annotated

import typer

from tq_admin.values import instant
from tq_client import DeadLetterFilter, FailureReason
from tq_common import durations


class Reason(enum.StrEnum):
    """Why a task was given up."""

    ATTEMPTS_EXHAUSTED = enum.auto()
    PERMANENT_ERROR = enum.auto()
    EXPIRED = enum.auto()
    DEPENDENCY = enum.auto()
    UNCERTAIN = enum.auto()


ReasonOption = Annotated[
    Reason | None,
    typer.Option("--reason", help="Only those given up for this reason.", case_sensitive=False),
]
TypeOption = Annotated[str, typer.Option("--type", help="Only those of this type.")]
ErrorOption = Annotated[
    str,
    typer.Option("--error", metavar="TEXT", help="Only those with this text in the last error."),
]
SinceOption = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Only those that failed since: 4h (ago), or an instant."),
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="WHEN", help="Only those that failed before then.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing, and tell how many it would be.")
]


def chosen(
    task_type: str, error: str, since: str | None, until: str | None, reason: Reason | None = None
) -> DeadLetterFilter | None:
    """Return the filter that the options make; None if none of them is given."""
    if not (task_type or error or since or until or reason):
        return None
    return DeadLetterFilter(
        type=task_type,
        error=error,
        reason=None if reason is None else FailureReason[reason.name],
        failed_after=_when(since, "--since"),
        failed_before=_when(until, "--until"),
    )


def _when(text: str | None, option: str) -> datetime | None:
    """Parse `2h` or `2h ago`, or an instant."""
    if text is None:
        return None
    try:
        span = durations.parse(text.removesuffix("ago").strip())
    except ValueError:
        pass
    else:
        return datetime.now(UTC) - span
    try:
        return instant(text)
    except ValueError as error:
        message = f"{error}; nor is it a span like 2h"
        raise typer.BadParameter(message, param_hint=option) from None
