"""`tq-admin submit`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from tq_admin import values
from tq_admin.failures import Failure, doing
from tq_admin.output import details
from tq_admin.session import Session
from tq_admin.task_options import read, read_options, with_task_options
from tq_admin.tasks import show_task
from tq_client import Task, TaskState, TqError, task_spec
from tq_client.specs import RETRIES_MAX
from tq_common import durations

# The length of one wait, which is repeated until the task ends.
WAIT_S = 60.0


@with_task_options
def submit(
    session: Session,
    queue: Annotated[str, typer.Argument(help="Created by the first task that names it.")],
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Which handler runs it.")],
    payload: Annotated[str | None, typer.Option(help="The payload as text.")] = None,
    payload_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The payload from a file; - for stdin.")
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Not before so long from now: 30s, 5m, 2h")
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(min=0, max=RETRIES_MAX, help="After the first attempt. Default: 4."),
    ] = None,
    backoff: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST[,FACTOR[,MOST]]",
            help="How long a failed attempt waits for the next: 5s, or 1s,2,10m",
        ),
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(
            "--after",
            "--depends-on",
            metavar="ID[:CONDITION[:OTHERWISE]]",
            help="It waits for this task to be completed (default), not-completed or ended; if that"
            " can no longer happen, it is to fail or skip. May be repeated.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it ends, show it; exit 1 unless COMPLETED.")
    ] = False,
    **options: Any,  # noqa: ANN401  # what task.proto makes of them
) -> None:
    """Submit one task and print its id; when it is printed, a majority has the task on disk."""
    if options["option_run_at"] is not None and delay is not None:
        raise typer.BadParameter("give one of --run-at and --delay")
    fields: dict[str, Any] = {
        **read_options(options),
        "retries": retries,
        "delay": read("--delay", durations.parse, delay),
        "backoff": read("--backoff", values.backoff, backoff),
        "depends_on": [read("--after", values.after, text) for text in after or ()],
    }
    try:
        spec = task_spec(queue, type_, _payload(payload, payload_file), **fields)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
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


def _wait(session: Session, task_id: str) -> None:
    """Wait through long polls and failovers; Ctrl-C leaves the task as it is."""
    task = None
    while task is None:
        with (
            doing(f"task {task_id} is submitted, but waiting for it failed"),
            suppress(TimeoutError),
        ):
            task = session.client.wait(task_id, timeout_s=max(WAIT_S, session.timeout_s))
    show_task(session, task.message)
    if task.state != TaskState.COMPLETED:
        raise Failure(_ending(task), f"Its attempts: tq-admin status {task_id}")


def _ending(task: Task) -> str:
    ending = f"task {task.task_id} ended {task.state}"
    error, *_ = (task.dependency_note or task.last_error).splitlines() or [""]
    return f"{ending}: {error}" if error else ending
