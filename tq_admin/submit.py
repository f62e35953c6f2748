"""`tq-admin submit`."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tq.v1.task_pb2 import Task, TaskSpec, TaskState
from tq_admin import values
from tq_admin.failures import Failure, doing
from tq_admin.output import details
from tq_admin.session import Session
from tq_admin.tasks import show_task, state_name
from tq_client import TqError

# How long one wait is; it is repeated until the task ends.
WAIT_S = 60.0
PRIORITY_MAX = 255


def submit(
    session: Session,
    queue: Annotated[str, typer.Argument(help="Created by the first task that names it.")],
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Which handler runs it.")],
    payload: Annotated[str | None, typer.Option(help="The payload as text.")] = None,
    payload_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The payload from a file; - for stdin.")
    ] = None,
    content_type: Annotated[str, typer.Option(help="What the payload is.")] = "",
    priority: Annotated[int, typer.Option(min=0, max=PRIORITY_MAX, help="255 is urgent.")] = 0,
    run_at: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="Not before: 2030-01-31T08:00:00Z")
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Not before so long from now: 30s, 5m, 2h")
    ] = None,
    task_timeout: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long one attempt may run.")
    ] = None,
    max_attempts: Annotated[int, typer.Option(min=0, help="0 is the default, 5.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be repeated.")
    ] = None,
    id_: Annotated[str, typer.Option("--id", help="The task's id. Default: a new one.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it ends, show it; exit 1 unless COMPLETED.")
    ] = False,
) -> None:
    """Submit one task and print its id; when it is printed, a majority has the task on disk."""
    spec = TaskSpec(
        task_id=id_,
        queue=queue,
        type=type_,
        payload=_payload(payload, payload_file),
        content_type=content_type,
        priority=priority,
        max_attempts=max_attempts,
    )
    _set_times(spec, run_at=run_at, delay=delay, task_timeout=task_timeout)
    try:
        spec.labels.update(values.label(text) for text in label or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--label") from None
    with doing(f"cannot submit to queue {queue}"):
        [outcome] = session.client.submit_many([spec])
        if isinstance(outcome, TqError):
            raise outcome
    if wait:
        _wait(session, outcome)
    else:
        session.output.show({"task_id": outcome}, lambda: details([("task", outcome)]))


def _payload(text: str | None, file: str | None) -> bytes:
    if text is not None and file is not None:
        raise typer.BadParameter("give one of --payload and --payload-file")
    if file is None:
        return (text or "").encode()
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise typer.BadParameter(message, param_hint="--payload-file") from None


def _set_times(
    spec: TaskSpec, *, run_at: str | None, delay: str | None, task_timeout: str | None
) -> None:
    if run_at is not None and delay is not None:
        raise typer.BadParameter("give one of --run-at and --delay")
    option = ""
    try:
        if run_at is not None:
            option = "--run-at"
            spec.run_at.FromDatetime(values.instant(run_at))
        if delay is not None:
            option = "--delay"
            spec.run_at.FromDatetime(datetime.now(UTC) + values.duration(delay))
        if task_timeout is not None:
            option = "--task-timeout"
            spec.timeout.FromTimedelta(values.duration(task_timeout))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _wait(session: Session, task_id: str) -> None:
    """Wait through long polls and failovers; Ctrl-C leaves the task as it is."""
    task = None
    while task is None:
        with (
            doing(f"task {task_id} is submitted, but waiting for it failed"),
            suppress(TimeoutError),
        ):
            task = session.client.wait(task_id, timeout_s=max(WAIT_S, session.timeout_s))
    show_task(session, task)
    if task.state != TaskState.TASK_STATE_COMPLETED:
        raise Failure(_ending(task), f"Its attempts: tq-admin status {task_id}")


def _ending(task: Task) -> str:
    ending = f"task {task.spec.task_id} ended {state_name(task.state)}"
    error, *_ = task.last_error.splitlines() or [""]
    return f"{ending}: {error}" if error else ending
