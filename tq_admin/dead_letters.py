"""`tq-admin dead-letters`: list, redrive."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import RenderableType

from tq_admin.command import Session
from tq_admin.failures import Failure, doing
from tq_admin.output import details, grid, instant
from tq_admin.plain import Plain, plain
from tq_admin.tasks import first, page_size

REDRIVE_MAX = 1_000


def list_dead_letters(
    session: Session,
    queue: Annotated[str, typer.Option(help="Only this queue's.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many to show at most.")] = 50,
) -> None:
    """List tasks that were given up, the newest first."""
    with doing("cannot list dead letters"):
        letters = session.client.dead_letters(queue=queue, page_size=page_size(limit))
        found, more = first(letters, limit)
    data = [plain(task) for task in found]
    session.output.show(data, lambda: _table(data))
    if more:
        session.output.remark(f"There are more: these are the newest {limit}; see --limit.")


def redrive(
    session: Session,
    task_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK_ID...]", help="Which; or give --queue.")
    ] = None,
    queue: Annotated[str, typer.Option(help="The oldest dead letters of this queue.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, help="With --queue: how many at most.")
    ] = REDRIVE_MAX,
) -> None:
    """Make dead letters pending again with a fresh count of attempts."""
    if bool(task_ids) == bool(queue):
        raise typer.BadParameter("name task ids, or a queue with --queue")
    skipped: list[str] = []
    if task_ids:
        redriven, skipped = _redrive_tasks(session, task_ids)
    else:
        redriven = _redrive_queue(session, queue, limit)
    data = {"redriven": redriven, "skipped_task_ids": skipped}
    session.output.show(data, lambda: details([("redriven", redriven)]))
    if skipped:
        raise Failure(
            f"not dead letters, and left alone: {', '.join(skipped)}",
            "See where they stand: tq-admin status TASK_ID",
        )


def _redrive_tasks(session: Session, task_ids: list[str]) -> tuple[int, list[str]]:
    redriven = 0
    skipped: list[str] = []
    for start in range(0, len(task_ids), REDRIVE_MAX):
        with doing(_what(redriven)):
            response = session.client.redrive(task_ids[start : start + REDRIVE_MAX])
        redriven += response.redriven
        skipped += response.skipped_task_ids
    return redriven, skipped


def _redrive_queue(session: Session, queue: str, limit: int) -> int:
    redriven = 0
    while redriven < limit:
        with doing(_what(redriven)):
            response = session.client.redrive(
                queue=queue, max_tasks=min(limit - redriven, REDRIVE_MAX)
            )
        redriven += response.redriven
        if response.redriven == 0:
            break
    return redriven


def _what(before: int) -> str:
    return f"cannot redrive more than the {before} already redriven" if before else "cannot redrive"


def _table(data: list[Plain]) -> RenderableType:
    columns = ("TASK", "QUEUE", "TYPE", "REASON", "ATTEMPTS", "FAILED", "LAST ERROR")
    return grid(
        columns,
        [
            (
                task["spec"]["task_id"],
                task["spec"]["queue"],
                task["spec"]["type"],
                task["failure_reason"],
                task["attempts_made"],
                instant(task["finished_at"]),
                task["last_error"].partition("\n")[0],
            )
            for task in data
        ],
    )
