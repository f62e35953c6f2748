"""`tq-admin dead-letters groups`: dead letters counted by what went wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Annotated, Final

import typer
from rich.console import RenderableType

from tq_admin.dead_letter_filter import (
    ErrorOption,
    ReasonOption,
    SinceOption,
    TypeOption,
    UntilOption,
    chosen,
)
from tq_admin.failures import doing
from tq_admin.output import distance, grid
from tq_admin.plain import Plain
from tq_admin.session import Session
from tq_admin.values import LIMIT_MAX
from tq_client import Task
from tq_common.limits import PAGE_SIZE_MAX

READ_MAX: Final = 100_000
GROUPS_MAX: Final = 1_000
"""The most groups that are told apart; the tasks of further ones are counted together."""
ERROR_CHARS: Final = 200
_VARIES: Final = re.compile(
    r"0x[0-9a-fA-F]+|(?=[a-fA-F-]*\d)[0-9a-fA-F-]{16,}|\d+(?:\.\d+){3}(?::\d+)?|\d+\.\d+|\d{4,}"
)
"""What differs from task to task in an error that is the same: ids, addresses, measured values and
long numbers. Short numbers stay: 404 is no 500.
"""

Kind = tuple[str, str, str, str]
"""Queue, type, reason, and the first line of the last error, without what varies."""
OTHERS: Final[Kind] = ("-", "-", "-", "(others)")


@dataclass(slots=True)
class _Counted:
    count: int
    first: datetime | None
    last: datetime | None
    example: str


def groups(
    session: Session,
    queue: Annotated[str, typer.Option(help="Only this queue's.")] = "",
    task_type: TypeOption = "",
    error: ErrorOption = "",
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=LIMIT_MAX, help="How many dead letters to read at most.")
    ] = READ_MAX,
) -> None:
    """Count dead letters by queue, type, reason and error, the largest group first.

    Errors count as one if they differ only in ids, addresses, fractions and long numbers.
    """
    letters = iter(
        session.client.dead_letters(
            queue=queue,
            filter=chosen(task_type, error, since, until, reason),
            page_size=PAGE_SIZE_MAX,
        )
    )
    with doing("cannot list dead letters"):
        found = counted(islice(letters, limit))
        more = next(letters, None) is not None
    data = [
        {
            "count": each.count,
            "queue": kind[0],
            "type": kind[1],
            "reason": kind[2],
            "error": kind[3],
            "first_failed_at": each.first and each.first.isoformat(),
            "last_failed_at": each.last and each.last.isoformat(),
            "example_task_id": each.example,
        }
        for kind, each in sorted(found.items(), key=lambda item: -item[1].count)
    ]
    session.output.show(data, lambda: _table(data))
    if more:
        session.output.remark(f"There are more: these are the newest {limit:,}; see --limit.")


def counted(letters: Iterable[Task]) -> dict[Kind, _Counted]:
    """Count dead letters, the newest first, by kind."""
    found: dict[Kind, _Counted] = {}
    for task in letters:
        kind = kind_of(task)
        if kind not in found and len(found) >= GROUPS_MAX:
            kind = OTHERS
        seen = found.get(kind)
        if seen is None:
            found[kind] = _Counted(1, task.finished_at, task.finished_at, task.task_id)
        else:
            seen.count += 1
            seen.first = task.finished_at
    return found


def kind_of(task: Task) -> Kind:
    """Return what a dead letter has in common with others of its kind."""
    line = task.last_error.partition("\n")[0][:ERROR_CHARS]
    reason = "" if task.failure_reason is None else task.failure_reason.name
    return task.queue, task.type, reason, _VARIES.sub("N", line)


def _table(data: list[Plain]) -> RenderableType:
    columns = ("COUNT", "QUEUE", "TYPE", "REASON", "FIRST", "LAST", "EXAMPLE", "ERROR")
    return grid(
        columns,
        [
            (
                group["count"],
                group["queue"],
                group["type"],
                group["reason"],
                distance(group["first_failed_at"]),
                distance(group["last_failed_at"]),
                group["example_task_id"],
                group["error"],
            )
            for group in data
        ],
        elastic="ERROR",
        optional=("EXAMPLE", "FIRST", "REASON"),
    )
