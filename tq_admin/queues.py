"""`tq-admin queues`: list, show, configure, pause, resume; and `purge`."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import RenderableType

import tq_client
from tq_admin.confirm import YesOption, confirm
from tq_admin.failures import Failure, doing
from tq_admin.output import details, distance, grid, instant
from tq_admin.plain import Plain, plain
from tq_admin.session import Session
from tq_admin.tasks import first
from tq_admin.values import LIMIT_MAX
from tq_client import QueueSettings
from tq_client.errors import NotFoundError
from tq_common import durations

COUNTS = (
    "blocked",
    "scheduled",
    "pending",
    "running",
    "retrying",
    "completed",
    "failed",
    "cancelled",
)
QueueArgument = Annotated[str, typer.Argument()]


class Ordering(enum.StrEnum):
    """How priorities order a queue's ready tasks."""

    STRICT = enum.auto()
    AGING = enum.auto()


def list_queues(
    session: Session,
    limit: Annotated[
        int, typer.Option(min=1, max=LIMIT_MAX, help="How many to show at most.")
    ] = 100,
) -> None:
    """List the queues with how many tasks are in each state."""
    with doing("cannot list queues"):
        found, more = first(session.client.list_queues(), limit)
    data = [plain(stats.message) for stats in found]
    session.output.show(data, lambda: _table(data))
    if more:
        session.output.remark(f"There are more: these are the first {limit} by name; see --limit.")


def show(session: Session, queue: QueueArgument) -> None:
    """Show one queue's counts and settings."""
    with doing(f"cannot show queue {queue}"):
        data = plain(session.client.queue_stats(queue).message)
    session.output.show(data, lambda: _details(data))


def configure(
    session: Session,
    queue: QueueArgument,
    ordering: Annotated[
        Ordering | None,
        typer.Option(help="strict: the higher priority first; aging: waiting counts as well."),
    ] = None,
    aging: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Waiting worth one step of priority: 1s")
    ] = None,
) -> None:
    """Set how a queue orders its tasks; a queue that does not exist is created.

    What is not given stays as it is.
    """
    fields = [
        name for name, given in (("ordering", ordering), ("aging", aging)) if given is not None
    ]
    if not fields:
        raise typer.BadParameter("name what to set: --ordering, --aging")
    settings = _settings(session, queue, new=True)
    if ordering is not None:
        settings = replace(settings, ordering=tq_client.Ordering[ordering.name])
    if aging is not None:
        try:
            settings = replace(settings, aging=durations.parse(aging))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--aging") from None
    _configure(session, queue, settings, fields)


def pause(session: Session, queue: QueueArgument) -> None:
    """Hand out nothing more of this queue; submits and running tasks go on."""
    settings = replace(_settings(session, queue), paused=True)
    _configure(session, queue, settings, ["paused"], must_exist=True)


def resume(session: Session, queue: QueueArgument) -> None:
    """Hand out a paused queue's tasks again."""
    settings = replace(_settings(session, queue), paused=False)
    _configure(session, queue, settings, ["paused"], must_exist=True)


def delete(session: Session, queue: QueueArgument) -> None:
    """Delete a queue that holds no task, not even one that has ended and is kept for a while."""
    with doing(f"cannot delete queue {queue}"):
        session.client.delete_queue(queue)
    session.output.show({"deleted": queue}, lambda: details([("deleted", queue)]))


def purge(
    session: Session,
    queue: QueueArgument,
    yes: YesOption = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="End a purge that is under way: the rest waits again.")
    ] = False,
) -> None:
    """Cancel every task that waits in a queue: pending, scheduled, retrying and blocked ones.

    None of them starts any more; that all of them are listed as cancelled may take a while. Running
    tasks are left to finish, and tasks submitted meanwhile stay.
    """
    if stop:
        with doing(f"cannot stop the purge of queue {queue}"):
            spared = session.client.stop_purge(queue)
        data = {"queue": queue, "spared": spared}
        session.output.show(data, lambda: details([("queue", queue), ("spared", spared)]))
        return
    with doing(f"cannot purge queue {queue}"):
        stats = session.client.queue_stats(queue)
    waiting = stats.pending + stats.scheduled + stats.retrying + stats.blocked
    cancelled = purging = 0
    if waiting > stats.purging:
        confirm(
            f"Cancel the {waiting:,} tasks that wait in queue {queue} "
            f"({stats.pending:,} pending, {stats.scheduled:,} scheduled, "
            f"{stats.retrying:,} retrying, {stats.blocked:,} blocked)?",
            yes=yes,
        )
        cancelled = _purge(session, queue)
    with doing(f"purged queue {queue}, but cannot tell how far it is"):
        purging = session.client.queue_stats(queue).purging
    data = {"queue": queue, "cancelled": cancelled, "purging": purging}
    session.output.show(data, lambda: details([("queue", queue), ("cancelled", cancelled)]))
    if purging:
        session.output.remark(
            f"None of them starts any more. {purging:,} are still listed as waiting: see purging in"
            f" tq-admin queues show {queue}. To keep those: tq-admin purge {queue} --stop"
        )


def _purge(session: Session, queue: str) -> int:
    cancelled = 0
    try:
        with doing(f"cannot purge queue {queue}"):
            for slice_ in session.client.purge_queue(queue):
                cancelled += slice_
    except Failure as failure:
        if not cancelled:
            raise
        message = f"{failure.message} ({cancelled:,} are cancelled so far)"
        advice = f"{failure.advice} Go on with: tq-admin purge {queue}".lstrip()
        raise Failure(message, advice, failure.code) from failure
    return cancelled


def _settings(session: Session, queue: str, *, new: bool = False) -> QueueSettings:
    """The present settings, to be changed in part: older brokers have no mask and set all.

    ``new``: returns the defaults if the queue does not exist.
    """
    with doing(f"cannot read the settings of queue {queue}"):
        try:
            return session.client.queue_stats(queue).settings
        except NotFoundError:
            if not new:
                raise
            return QueueSettings()


def _configure(
    session: Session,
    queue: str,
    settings: QueueSettings,
    fields: Sequence[str],
    *,
    must_exist: bool = False,
) -> None:
    with doing(f"cannot configure queue {queue}"):
        configured = session.client.configure_queue(
            queue, settings, fields=fields, must_exist=must_exist
        )
    data = {"queue": queue, "settings": plain(configured.message)}
    session.output.show(data, lambda: details([("queue", queue), *_settings_pairs(data)]))


def _table(data: list[Plain]) -> RenderableType:
    columns = ("QUEUE", *(count.upper() for count in COUNTS), "OLDEST", "PAUSED")
    return grid(
        columns,
        [
            (
                stats["queue"],
                *(stats[count] for count in COUNTS),
                distance(stats["oldest_pending_at"]),
                "paused" if (stats["settings"] or {}).get("paused") else "",
            )
            for stats in data
        ],
        optional=("BLOCKED", "CANCELLED", "SCHEDULED", "RETRYING", "OLDEST"),
    )


def _details(data: Plain) -> RenderableType:
    return details(
        [
            ("queue", data["queue"]),
            *((count, data[count]) for count in COUNTS),
            *((("purging", data["purging"]),) if data["purging"] else ()),
            ("oldest pending", instant(data["oldest_pending_at"])),
            *_settings_pairs(data),
        ]
    )


def _settings_pairs(data: Plain) -> list[tuple[str, object]]:
    settings = data["settings"] or {}
    ordering = settings.get("ordering", "UNSPECIFIED")
    return [
        ("ordering", "STRICT (default)" if ordering == "UNSPECIFIED" else ordering),
        ("aging", settings.get("aging")),
        ("paused", "yes" if settings.get("paused") else "no"),
    ]
