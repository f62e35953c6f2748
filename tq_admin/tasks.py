"""`tq-admin status`, `list` and `cancel`."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Final, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.text import Text

import tq_client
from tq.v1.task_pb2 import Task
from tq_admin import values
from tq_admin.failures import Failure, doing
from tq_admin.output import details, distance, grid, instant, prose, took
from tq_admin.plain import Plain, plain
from tq_admin.session import Session
from tq_admin.values import LIMIT_MAX
from tq_client import DependencyOutcome, TaskState
from tq_common.limits import PAGE_SIZE_MAX

# How much of a payload or a result a table shows; JSON and YAML show all of it.
PREVIEW_CHARACTERS = 400
# How many dependencies a table shows; JSON and YAML show all of them.
DEPENDENCIES_SHOWN = 20


class State(enum.StrEnum):
    """The states a task can be filtered by."""

    BLOCKED = enum.auto()
    SCHEDULED = enum.auto()
    PENDING = enum.auto()
    RUNNING = enum.auto()
    RETRYING = enum.auto()
    COMPLETED = enum.auto()
    FAILED = enum.auto()
    CANCELLED = enum.auto()


def status(
    session: Session,
    task_id: Annotated[str, typer.Argument()],
    payload: Annotated[bool, typer.Option(help="Fetch payload and result, too.")] = True,
) -> None:
    """Show one task with its attempts and its result."""
    with doing(f"cannot show task {task_id}"):
        task = session.client.get(task_id, omit_payload=not payload)
    show_task(session, task.message)


def list_tasks(
    session: Session,
    queue: Annotated[str, typer.Option(help="Only this queue's.")] = "",
    state: Annotated[
        list[State] | None, typer.Option(help="Only in this state; may be repeated.")
    ] = None,
    type_: Annotated[str, typer.Option("--type", help="Only of this type.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with all of these labels.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=LIMIT_MAX, help="How many to show at most.")
    ] = 50,
) -> None:
    """List tasks, the newest first."""
    try:
        labels = dict(values.label(text) for text in label or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--label") from None
    with doing("cannot list tasks"):
        found, more = first(
            session.client.list_tasks(
                queue=queue,
                states=[TaskState[one.name] for one in state or ()],
                task_type=type_,
                labels=labels,
                page_size=page_size(limit),
            ),
            limit,
        )
        if queue and not found:
            # A mistyped queue has no tasks either: this raises NOT_FOUND.
            session.client.queue_stats(queue)
    tasks = [task.message for task in found]
    session.output.show([plain(task) for task in tasks], lambda: _table(tasks))
    if more:
        session.output.remark(f"There are more: these are the newest {limit}; see --limit.")


def cancel(
    session: Session, task_ids: Annotated[list[str], typer.Argument(metavar="TASK_ID...")]
) -> None:
    """Cancel tasks; a running one is marked and its worker told."""
    cancelled: list[Plain] = []
    failures: list[Failure] = []
    for task_id in task_ids:
        try:
            with doing(f"cannot cancel task {task_id}"):
                response = session.client.cancel(task_id)
        except Failure as failure:
            failures.append(failure)
        else:
            cancelled.append({"task_id": task_id, **plain(response.message)})
    if cancelled:
        session.output.show(cancelled, lambda: _cancelled_table(cancelled))
    for earlier in failures[:-1]:
        session.output.remark(f"tq-admin: {earlier.message}")
    if failures:
        raise failures[-1]


Item = TypeVar("Item")


def first(items: Iterator[Item], limit: int) -> tuple[list[Item], bool]:
    """The first ``limit`` items of a listing, and whether there are more."""
    found = list(islice(items, limit + 1))
    return found[:limit], len(found) > limit


def page_size(limit: int) -> int:
    """The page size for `first`: all its items in one call, if that is allowed."""
    return min(limit + 1, PAGE_SIZE_MAX)


def show_task(session: Session, task: Task) -> None:
    """Print one task in full."""
    data = plain(task)
    session.output.show(data, lambda: _details(task, data))


def _table(found: list[Task]) -> RenderableType:
    columns = ("TASK", "QUEUE", "TYPE", "STATE", "PRIORITY", "ATTEMPTS", "SUBMITTED", "LAST ERROR")
    return grid(
        columns,
        [
            (
                task.spec.task_id,
                task.spec.queue,
                task.spec.type,
                str(TaskState(task.state)),
                task.spec.priority,
                task.attempts_made,
                distance(task.submitted_at.ToJsonString()),
                _preview(task.last_error.partition("\n")[0], 60),
            )
            for task in found
        ],
        elastic="LAST ERROR",
        optional=("PRIORITY", "ATTEMPTS", "TYPE"),
    )


def _cancelled_table(cancelled: list[Plain]) -> RenderableType:
    meanings = {
        "CANCELLED": "cancelled",
        "RUNNING": "marked; its worker learns of it at its next heartbeat",
    }
    rows = [
        (one["task_id"], one["state"], meanings.get(one["state"], "had already ended"))
        for one in cancelled
    ]
    return grid(("TASK", "STATE", ""), rows)


def _details(task: Task, data: Plain) -> RenderableType:
    spec = data["spec"] or {}
    why = tq_client.Task.of(task).dependency_note
    count = len(task.dependencies)
    pairs: list[tuple[str, object]] = [
        ("task", spec.get("task_id")),
        ("queue", spec.get("queue")),
        ("type", spec.get("type")),
        ("state", data["state"]),
        ("priority", spec.get("priority")),
        ("attempts", task.attempts_made),
        ("at most", task.spec.max_attempts or None),
        ("submitted", instant(data["submitted_at"])),
        ("due", instant(data["due_at"])),
        ("finished", instant(data["finished_at"])),
        ("labels", spec.get("labels")),
        ("needs", f"{task.spec.need:,} of {count:,}" if task.spec.need and count else None),
        ("failure", data["failure_reason"] if task.failure_reason else None),
        ("last error", prose(task.last_error) if task.last_error else None),
        ("cancel", "requested" if task.cancel_requested else None),
        ("cancelled", data["cancel_reason"] if task.cancel_reason else None),
        ("ended by", task.ended_by or None),
        ("why", why or None),
        ("redrives", task.redrives or None),
        ("payload", _content(task.spec.payload)),
        ("result", _content(task.result)),
    ]
    shown = [(name, value) for name, value in pairs if value not in (None, "", {})]
    parts: list[RenderableType] = [details(shown)]
    if task.dependencies:
        parts += [Text(), *_dependencies(task)]
    if task.attempts:
        parts += [Text(), _history(data), *_other_errors(task)]
    return Group(*parts)


def _history(data: Plain) -> RenderableType:
    columns = ("ATTEMPT", "END", "WORKER", "TOKEN", "STARTED", "TOOK", "ERROR")
    attempts = [
        (
            attempt["number"],
            attempt["end"],
            attempt["worker_id"],
            attempt["token"],
            distance(attempt["started_at"]),
            took(attempt["started_at"], attempt["ended_at"]),
            _preview(attempt["error"].partition("\n")[0], PREVIEW_CHARACTERS),
        )
        for attempt in data["attempts"]
    ]
    return grid(columns, attempts, elastic="ERROR", optional=("TOKEN", "WORKER"))


def _dependencies(task: Task) -> list[RenderableType]:
    """What it depends on, and what became of that: first what is broken, then what is open."""
    ours = tq_client.Task.of(task)
    found = sorted(
        zip(ours.depends_on, ours.dependencies, strict=False),
        key=lambda pair: _FIRST.get(pair[1].status, len(_FIRST)),
    )
    columns = ("DEPENDS ON", "CONDITION", "OTHERWISE", "IT IS", "DEPENDENCY")
    rows = [
        (
            each.task_id,
            after.condition.replace("_", " "),
            after.otherwise or _OTHERWISE.get(after.condition),
            "removed" if each.state is None else str(each.state),
            None if each.status is None else str(each.status),
        )
        for after, each in found[:DEPENDENCIES_SHOWN]
    ]
    shown: list[RenderableType] = [grid(columns, rows, optional=("OTHERWISE", "CONDITION"))]
    others = Counter(_IN_WORDS.get(each.status, "") for _, each in found[DEPENDENCIES_SHOWN:])
    if others:
        kinds = ", ".join(f"{others[each]:,} {each}" for each in _IN_WORDS.values() if others[each])
        count = len(found) - DEPENDENCIES_SHOWN
        shown.append(Text(f"and {count:,} more" + (f": {kinds}" if kinds else ""), style="dim"))
    return shown


_OTHERWISE: Final = {"completed": "fail", "not_completed": "skip"}
_FIRST: Final[Mapping[DependencyOutcome | None, int]] = {
    DependencyOutcome.BROKEN: 0,
    DependencyOutcome.OPEN: 1,
}
_IN_WORDS: Final[Mapping[DependencyOutcome | None, str]] = {
    DependencyOutcome.BROKEN: "broken",
    DependencyOutcome.OPEN: "open",
    DependencyOutcome.HOLDS: "hold",
}


def _other_errors(task: Task) -> list[RenderableType]:
    """The errors of several lines, except the last attempt's, which is shown above."""
    others = [
        (f"attempt {attempt.number}", prose(_preview(attempt.error, PREVIEW_CHARACTERS)))
        for attempt in task.attempts
        if "\n" in attempt.error and attempt.error != task.last_error
    ]
    return [details(others)] if others else []


def _content(content: bytes) -> Text | None:
    if not content:
        return None
    try:
        return prose(_preview(content.decode(), PREVIEW_CHARACTERS))
    except UnicodeDecodeError:
        return Text(f"{len(content):,} bytes")


def _preview(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"
