"""`tq-admin dead-letters`: list, show, redrive, delete; and `retry`."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated

import typer
from rich.console import RenderableType

from tq_admin.confirm import YesOption, confirm
from tq_admin.failures import Failure, doing
from tq_admin.output import details, distance, grid
from tq_admin.plain import Plain, plain
from tq_admin.session import Session
from tq_admin.tasks import first, page_size, show_task
from tq_admin.values import LIMIT_MAX
from tq_client import FailureReason, Task, TaskState
from tq_common.limits import DELETE_TASKS_MAX, PAGE_SIZE_MAX, REDRIVE_TASKS_MAX

CALL_MAX = min(REDRIVE_TASKS_MAX, DELETE_TASKS_MAX)
"""The most tasks that one call takes."""


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
TaskIdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[TASK_ID...]", help="Which; or give --queue.")
]


def list_dead_letters(
    session: Session,
    queue: Annotated[str, typer.Option(help="Only this queue's.")] = "",
    reason: ReasonOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=LIMIT_MAX, help="How many to show at most.")
    ] = 50,
) -> None:
    """List tasks that were given up, the newest first."""
    found, more = _found(session, queue, reason, limit)
    data = [plain(task.message) for task in found]
    session.output.show(data, lambda: _table(data))
    if more:
        session.output.remark(f"There are more: these are the newest {limit}; see --limit.")


def _found(
    session: Session, queue: str, reason: Reason | None, limit: int
) -> tuple[list[Task], bool]:
    """The newest dead letters, and whether there are more."""
    pages = PAGE_SIZE_MAX if reason is not None else page_size(limit)
    wanted = FailureReason[reason.name] if reason is not None else None
    with doing("cannot list dead letters"):
        letters = session.client.dead_letters(queue=queue, page_size=pages)
        return first((task for task in letters if wanted in {None, task.failure_reason}), limit)


def show(session: Session, task_id: Annotated[str, typer.Argument()]) -> None:
    """Show why one task was given up: every attempt with its worker, times and error."""
    with doing(f"cannot show task {task_id}"):
        task = session.client.get(task_id)
    if task.state != TaskState.FAILED:
        raise Failure(
            f"task {task_id} is no dead letter: it is {task.state}",
            f"See it with: tq-admin status {task_id}",
        )
    show_task(session, task.message)
    session.output.remark(f"Try it again: tq-admin retry {task_id}")
    session.output.remark(f"Forget it: tq-admin dead-letters delete {task_id}")


def retry(
    session: Session, task_ids: Annotated[list[str], typer.Argument(metavar="TASK_ID...")]
) -> None:
    """Make dead letters pending again: what `dead-letters redrive` does, by id."""
    _show_redriven(session, _redrive_tasks(session, task_ids))


def redrive(
    session: Session,
    task_ids: TaskIdsArgument = None,
    queue: Annotated[str, typer.Option(help="Those of this queue, the oldest first.")] = "",
    reason: ReasonOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, max=LIMIT_MAX, help="With --queue or --reason: how many at most, else all."
        ),
    ] = None,
) -> None:
    """Make dead letters pending again with a fresh count of attempts.

    Those are meant that are there when it begins: one that dies again meanwhile is left alone.
    """
    if reason is not None and not task_ids:
        _show_redriven(session, _redrive_reason(session, queue, reason, limit))
    elif _chosen_by_id(task_ids, queue or (reason or "")):
        _show_redriven(session, _redrive_tasks(session, task_ids or []))
    else:
        _show_redriven(session, _redrive_queue(session, queue, limit))


def delete(
    session: Session,
    task_ids: TaskIdsArgument = None,
    queue: Annotated[str, typer.Option(help="All dead letters of this queue.")] = "",
    yes: YesOption = False,
) -> None:
    """Delete dead letters for good: payload, history and all."""
    deleted = 0
    skipped: list[str] = []
    if _chosen_by_id(task_ids, queue):
        ids = task_ids or []
        confirm(f"Delete {len(ids):,} dead letters for good?", yes=yes)
        deleted, skipped = _delete_tasks(session, ids)
    else:
        with doing(f"cannot count the dead letters of queue {queue}"):
            count = session.client.queue_stats(queue).failed
        if count:
            confirm(f"Delete all {count:,} dead letters of queue {queue} for good?", yes=yes)
            deleted = _delete_queue(session, queue, count)
            if deleted < count:
                session.output.remark(f"{count - deleted:,} are left or were gone: run it again.")
    data = {"deleted": deleted, "skipped_task_ids": skipped}
    session.output.show(data, lambda: details([("deleted", deleted)]))
    _refuse_skipped(skipped)


def _chosen_by_id(task_ids: list[str] | None, queue: str) -> bool:
    if bool(task_ids) == bool(queue):
        raise typer.BadParameter("name task ids, or a queue with --queue")
    return bool(task_ids)


@dataclass(slots=True)
class _Redriven:
    """The outcome of a redrive."""

    count: int = 0
    skipped: list[str] = field(default_factory=list)
    more: bool = False
    """Whether some were left alone because of --limit."""


def _show_redriven(session: Session, redriven: _Redriven) -> None:
    data = {
        "redriven": redriven.count,
        "skipped_task_ids": redriven.skipped,
        "more": redriven.more,
    }
    session.output.show(data, lambda: details([("redriven", redriven.count)]))
    if redriven.more:
        session.output.remark("There are more: run it again, or without --limit.")
    _refuse_skipped(redriven.skipped)


def _refuse_skipped(skipped: list[str]) -> None:
    if skipped:
        raise Failure(
            f"not dead letters, and left alone: {', '.join(skipped)}",
            "See where they stand: tq-admin status TASK_ID",
        )


def _redrive_tasks(session: Session, task_ids: Iterable[str]) -> _Redriven:
    redriven = _Redriven()
    ids = iter(task_ids)
    while some := list(islice(ids, CALL_MAX)):
        with doing(_what("redrive", redriven.count)):
            response = session.client.redrive(some)
        redriven.count += response.redriven
        redriven.skipped += response.skipped_task_ids
    return redriven


def _redrive_reason(session: Session, queue: str, reason: Reason, limit: int | None) -> _Redriven:
    """Redrive by id: new dead letters come before the listing's place, and are left alone."""
    found, more = _found(session, queue, reason, limit or LIMIT_MAX)
    redriven = _redrive_tasks(session, (task.task_id for task in found))
    # Another redrive, or retention, was faster: they are no longer dead letters, as requested.
    redriven.skipped.clear()
    redriven.more = more
    return redriven


def _redrive_queue(session: Session, queue: str, limit: int | None) -> _Redriven:
    redriven = _Redriven()
    page_token = ""
    while True:
        most = CALL_MAX if limit is None else min(limit - redriven.count, CALL_MAX)
        with doing(_what("redrive", redriven.count)):
            response = session.client.redrive(queue=queue, max_tasks=most, page_token=page_token)
        redriven.count += response.redriven
        page_token = response.next_page_token
        if not page_token or redriven.count == limit:
            redriven.more = bool(page_token)
            break
    if not redriven.more and response.redriven == CALL_MAX:
        # Older brokers, without page tokens, stop here even if there are more.
        with doing(f"cannot count the dead letters of queue {queue}"):
            redriven.more = session.client.queue_stats(queue).failed > 0
    return redriven


def _delete_tasks(session: Session, task_ids: list[str]) -> tuple[int, list[str]]:
    deleted = 0
    skipped: list[str] = []
    left = task_ids
    while left:
        with doing(_what("delete", deleted)):
            response = session.client.delete_dead_letters(left[:CALL_MAX])
        deleted += response.deleted
        skipped += response.skipped_task_ids
        left = [*response.remaining_task_ids, *left[CALL_MAX:]]
    return deleted, skipped


def _delete_queue(session: Session, queue: str, count: int) -> int:
    """Delete as many as were counted: deleting later ones was not confirmed."""
    deleted = 0
    page_token = ""
    while deleted < count:
        with doing(_what("delete", deleted)):
            response = session.client.delete_dead_letters(
                queue=queue, max_tasks=min(count - deleted, CALL_MAX), page_token=page_token
            )
        deleted += response.deleted
        page_token = response.next_page_token
        if not page_token:
            break
    return deleted


def _what(verb: str, before: int) -> str:
    return f"cannot {verb} more than the {before} done already" if before else f"cannot {verb}"


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
                distance(task["finished_at"]),
                task["last_error"].partition("\n")[0],
            )
            for task in data
        ],
        elastic="LAST ERROR",
        optional=("ATTEMPTS", "TYPE", "QUEUE"),
    )
