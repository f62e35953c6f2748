"""`tq-admin dead-letters`: list, show, redrive, delete; and `retry`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from tq_admin.confirm import YesOption, confirm
from tq_admin.dead_letter_filter import (
    DryRunOption,
    ErrorOption,
    Reason,
    ReasonOption,
    SinceOption,
    TypeOption,
    UntilOption,
    chosen,
)
from tq_admin.failures import Failure, doing
from tq_admin.output import cell, details, distance, grid, prose
from tq_admin.plain import Plain, plain
from tq_admin.session import Session
from tq_admin.tasks import first, page_size, show_task
from tq_admin.values import LIMIT_MAX
from tq_client import DeadLetterFilter, FailureReason, Task, TaskState, TqError
from tq_client import Reason as Refusal
from tq_common.limits import DELETE_TASKS_MAX, PAGE_SIZE_MAX, REDRIVE_TASKS_MAX

CALL_MAX = min(REDRIVE_TASKS_MAX, DELETE_TASKS_MAX)
"""The most tasks that one call takes."""
SKIPPED_SHOWN = 20
"""How many skipped tasks a table shows; JSON and YAML show all."""


ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Also tasks of which others have started because they failed; those go on.",
    ),
]
TaskIdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[TASK_ID...]", help="Which; or give --queue.")
]


def list_dead_letters(
    session: Session,
    queue: Annotated[str, typer.Option(help="Only this queue's.")] = "",
    task_type: TypeOption = "",
    error: ErrorOption = "",
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=LIMIT_MAX, help="How many to show at most.")
    ] = 50,
) -> None:
    """List tasks that were given up, the newest first."""
    meant = chosen(task_type, error, since, until)
    found, more = _found(session, queue, meant, reason, limit)
    data = [plain(task.message) for task in found]
    session.output.show(data, lambda: _table(data))
    if more:
        session.output.remark(f"There are more: these are the newest {limit}; see --limit.")


def _found(
    session: Session,
    queue: str,
    meant: DeadLetterFilter | None,
    reason: Reason | None,
    limit: int,
) -> tuple[list[Task], bool]:
    """The newest dead letters, and whether there are more.

    The reason is looked at here: brokers of version 4 and older have no filter.
    """
    pages = PAGE_SIZE_MAX if reason is not None else page_size(limit)
    wanted = FailureReason[reason.name] if reason is not None else None
    with doing("cannot list dead letters"):
        letters = session.client.dead_letters(queue=queue, filter=meant, page_size=pages)
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
    if task.failure_reason != FailureReason.DEPENDENCY:
        session.output.remark(f"Try it again: tq-admin retry {task_id}")
    elif task.ended_by:
        session.output.remark(
            f"It waits again once task {task.ended_by} is tried: tq-admin retry {task.ended_by}"
        )
    session.output.remark(f"Forget it: tq-admin dead-letters delete {task_id}")


def retry(
    session: Session,
    task_ids: Annotated[list[str], typer.Argument(metavar="TASK_ID...")],
    force: ForceOption = False,
) -> None:
    """Make dead letters pending again: what `dead-letters redrive` does, by id."""
    _show_redriven(session, _redrive_tasks(session, task_ids, force=force))


def redrive(
    session: Session,
    task_ids: TaskIdsArgument = None,
    queue: Annotated[str, typer.Option(help="Those of this queue, the oldest first.")] = "",
    task_type: TypeOption = "",
    error: ErrorOption = "",
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=LIMIT_MAX, help="Without ids: how many at most, else all."),
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Make dead letters pending again with a fresh count of attempts.

    Those are meant that are there when it begins: one that dies again meanwhile is left alone. A
    task that failed only because another did is not redriven itself: it waits again once that one
    is redriven.
    """
    if reason is Reason.DEPENDENCY and not task_ids:
        raise typer.BadParameter(
            "these failed only because other tasks did: redrive those, and these wait again"
            " (tq-admin status TASK_ID names the other task)",
            param_hint="--reason",
        )
    meant = chosen(task_type, error, since, until, reason)
    if _chosen_by_id(task_ids, queue or bool(meant), dry_run=dry_run):
        _show_redriven(session, _redrive_tasks(session, task_ids or [], force=force))
        return
    if dry_run:
        if not queue:
            raise typer.BadParameter("needs --queue", param_hint="--dry-run")
        with doing(f"cannot count the dead letters of queue {queue}"):
            slices = session.client.redrive_queue(queue, filter=meant, force=force, dry_run=True)
            _show_counted(session, "would be redriven", sum(slices))
    elif meant is not None and (reason is not None or not queue):
        by_server = chosen(task_type, error, since, until)
        found = _found(session, queue, by_server, reason, limit or LIMIT_MAX)
        _show_redriven(session, _redrive_found(session, *found, force=force))
    else:
        redriven = _redrive_queue(session, queue, meant, limit, force=force)
        _show_redriven(session, redriven)
        if not redriven.more and meant is None:
            _tell_of_others(session, queue)


def delete(
    session: Session,
    task_ids: TaskIdsArgument = None,
    queue: Annotated[str, typer.Option(help="All dead letters of this queue.")] = "",
    task_type: TypeOption = "",
    error: ErrorOption = "",
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Delete dead letters for good: payload, history and all."""
    deleted = 0
    skipped: dict[str, TqError] = {}
    meant = chosen(task_type, error, since, until, reason)
    if meant is not None and not queue:
        raise typer.BadParameter("name the queue of the dead letters", param_hint="--queue")
    if _chosen_by_id(task_ids, queue, dry_run=dry_run):
        ids = task_ids or []
        confirm(f"Delete {len(ids):,} dead letters for good?", yes=yes)
        deleted, skipped = _delete_tasks(session, ids)
    else:
        count = _count_to_delete(session, queue, meant, dry_run=dry_run)
        if dry_run:
            _show_counted(session, "would be deleted", count)
            return
        if count:
            which = "all" if meant is None else "these"
            confirm(f"Delete {which} {count:,} dead letters of queue {queue} for good?", yes=yes)
            deleted = _delete_queue(session, queue, meant, count)
            if deleted < count:
                session.output.remark(
                    f"{count - deleted:,} are left, or were gone. Run it again; one that stays is"
                    " still needed by another task: tq-admin dead-letters delete TASK_ID names it."
                )
    data = {"deleted": deleted, **_plain_skipped(skipped)}
    session.output.show(data, lambda: _outcome("deleted", deleted, skipped))
    _refuse_skipped(
        skipped, "Try again once those tasks have ended, or cancel them: tq-admin cancel TASK_ID"
    )


def _count_to_delete(
    session: Session, queue: str, meant: DeadLetterFilter | None, *, dry_run: bool
) -> int:
    """Count a queue's dead letters: all, or those that a deletion would take."""
    with doing(f"cannot count the dead letters of queue {queue}"):
        if meant is None and not dry_run:
            return session.client.queue_stats(queue).failed
        return sum(session.client.clear_dead_letters(queue, filter=meant, dry_run=True))


def _show_counted(session: Session, what: str, count: int) -> None:
    data = {"dry_run": True, "dead_letters": count}
    session.output.show(data, lambda: details([(what, count)]))


def _chosen_by_id(task_ids: list[str] | None, others: str | bool, *, dry_run: bool = False) -> bool:
    """Return whether tasks are named one by one; ``others``: the queue, or whether there is one."""
    if bool(task_ids) == bool(others):
        raise typer.BadParameter("name task ids, or a queue with --queue")
    if task_ids and dry_run:
        raise typer.BadParameter("takes a queue, not ids", param_hint="--dry-run")
    return bool(task_ids)


@dataclass(slots=True)
class _Redriven:
    """The outcome of a redrive."""

    count: int = 0
    skipped: dict[str, TqError] = field(default_factory=dict)
    """The tasks that were left as they are, with the reasons."""
    more: bool = False
    """Whether some were left alone because of --limit."""


def _show_redriven(session: Session, redriven: _Redriven) -> None:
    data = {
        "redriven": redriven.count,
        **_plain_skipped(redriven.skipped),
        "more": redriven.more,
    }
    session.output.show(data, lambda: _outcome("redriven", redriven.count, redriven.skipped))
    if redriven.more:
        session.output.remark("There are more: run it again, or without --limit.")
    _refuse_skipped(
        redriven.skipped, "Redrive it all the same with --force: what was let go stays as it is."
    )


def _plain_skipped(skipped: Mapping[str, TqError]) -> Plain:
    return {
        "skipped_task_ids": list(skipped),
        "skipped": [
            {"task_id": task_id, "reason": str(error.reason), "message": error.message}
            for task_id, error in skipped.items()
        ],
    }


def _outcome(verb: str, count: int, skipped: Mapping[str, TqError]) -> RenderableType:
    """How many tasks it was, and why others were left as they are."""
    if not skipped:
        return details([(verb, count)])
    parts: list[RenderableType] = [details([(verb, count), ("skipped", len(skipped))]), Text()]
    for task_id, error in list(skipped.items())[:SKIPPED_SHOWN]:
        parts += [cell(task_id), Padding(prose(str(error)), (0, 0, 0, 2))]
    if len(skipped) > SKIPPED_SHOWN:
        parts.append(Text(f"and {len(skipped) - SKIPPED_SHOWN:,} more", style="dim"))
    return Group(*parts)


def _refuse_skipped(skipped: Mapping[str, TqError], if_it_has_dependents: str) -> None:
    if not skipped:
        return
    has_dependents = Refusal.HAS_DEPENDENTS in {error.reason for error in skipped.values()}
    named = [*skipped][:SKIPPED_SHOWN]
    more = f", and {len(skipped) - len(named):,} more" if len(skipped) > len(named) else ""
    raise Failure(
        f"left as they are: {', '.join(named)}{more}",
        if_it_has_dependents if has_dependents else "See where they stand: tq-admin status TASK_ID",
    )


def _tell_of_others(session: Session, queue: str) -> None:
    """Say that a redrive of a queue has passed dead letters over."""
    with doing(f"cannot count the dead letters of queue {queue}"):
        left = session.client.queue_stats(queue).failed
    if left:
        session.output.remark(
            f"Dead letters that are left: {left:,}. They failed only because other tasks did, and"
            " wait again soon after those are redriven; or others have started because they failed"
            " (see --force)."
        )


def _redrive_tasks(session: Session, task_ids: Iterable[str], *, force: bool) -> _Redriven:
    redriven = _Redriven()
    ids = iter(task_ids)
    left: list[str] = []
    while some := [*left, *islice(ids, CALL_MAX - len(left))]:
        with doing(_what("redrive", redriven.count)):
            response = session.client.redrive(some, force=force)
        redriven.count += response.redriven
        redriven.skipped.update(response.skipped)
        left = list(response.remaining_task_ids)
    return redriven


def _redrive_found(session: Session, found: list[Task], more: bool, *, force: bool) -> _Redriven:
    """Redrive by id: new dead letters come before the listing's place, and are left alone."""
    redriven = _redrive_tasks(session, (task.task_id for task in found), force=force)
    # Another redrive, or retention, was faster: they are no longer dead letters, as requested.
    redriven.skipped = {
        task_id: error
        for task_id, error in redriven.skipped.items()
        if error.reason is Refusal.HAS_DEPENDENTS
    }
    redriven.more = more
    return redriven


def _redrive_queue(
    session: Session,
    queue: str,
    meant: DeadLetterFilter | None,
    limit: int | None,
    *,
    force: bool,
) -> _Redriven:
    redriven = _Redriven()
    page_token = ""
    while True:
        most = CALL_MAX if limit is None else min(limit - redriven.count, CALL_MAX)
        with doing(_what("redrive", redriven.count)):
            response = session.client.redrive(
                queue=queue, max_tasks=most, page_token=page_token, force=force, filter=meant
            )
        redriven.count += response.redriven
        page_token = response.next_page_token
        if not page_token or redriven.count == limit:
            redriven.more = bool(page_token)
            break
    if not redriven.more and meant is None and response.redriven == CALL_MAX:
        # Older brokers, without page tokens, stop here even if there are more.
        with doing(f"cannot count the dead letters of queue {queue}"):
            redriven.more = session.client.queue_stats(queue).failed > 0
    return redriven


def _delete_tasks(session: Session, task_ids: list[str]) -> tuple[int, dict[str, TqError]]:
    deleted = 0
    skipped: dict[str, TqError] = {}
    left = task_ids
    while left:
        with doing(_what("delete", deleted)):
            response = session.client.delete_dead_letters(left[:CALL_MAX])
        deleted += response.deleted
        skipped.update(response.skipped)
        left = [*response.remaining_task_ids, *left[CALL_MAX:]]
    return deleted, skipped


def _delete_queue(session: Session, queue: str, meant: DeadLetterFilter | None, count: int) -> int:
    """Delete as many as were counted: deleting later ones was not confirmed."""
    deleted = 0
    page_token = ""
    while deleted < count:
        with doing(_what("delete", deleted)):
            response = session.client.delete_dead_letters(
                queue=queue,
                max_tasks=min(count - deleted, CALL_MAX),
                page_token=page_token,
                filter=meant,
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
