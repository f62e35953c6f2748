"""`tq-admin workers`."""

from __future__ import annotations

from datetime import timedelta

from rich.console import RenderableType
from rich.text import Text

from tq.v1.worker_service_pb2 import ListWorkersResponse, WorkerInfo
from tq_admin.failures import doing
from tq_admin.output import grid, size, span
from tq_admin.plain import plain
from tq_admin.session import Session

COLUMNS = (
    "WORKER",
    "QUEUES",
    "NOW",
    "LEASES",
    "CLAIMED",
    "COMPLETED",
    "FAILED",
    "CPU",
    "MEMORY",
    "LAST SEEN",
)
# A worker claims, renews or reports more often than this: for brokers that do not say themselves.
SILENT_S = 75.0


def list_workers(session: Session) -> None:
    """Show who works: which queues each claims from, what it holds, when it was last heard of.

    CPU (of one core) and memory are those of all its processes, as its last heartbeat said.

    It is what the leader has seen since it leads; a worker is forgotten after 5 silent minutes.
    """
    with doing("cannot list workers"):
        found = session.client.list_workers()
    session.output.show(plain(found), lambda: table(found))
    if not found.workers:
        session.output.remark("Nobody works. Start a worker: tq-worker run --handlers MODULE")
    led_s = found.observed.ToTimedelta() / timedelta(seconds=1)
    session.output.remark(
        f"As seen by {found.leader_id or 'the leader'}, which leads for {span(led_s)}."
    )


def table(found: ListWorkersResponse) -> RenderableType:
    """A table of the workers, one per row."""
    return grid(
        COLUMNS,
        [row(worker) for worker in found.workers],
        right=("CPU", "MEMORY"),
        elastic="QUEUES",
        optional=("CLAIMED", "CPU", "MEMORY"),
    )


def row(worker: WorkerInfo) -> tuple[object, ...]:
    """The row of one worker."""
    silent_s = worker.silence.ToTimedelta() / timedelta(seconds=1)
    return (
        worker.worker_id,
        ", ".join(worker.queues),
        doing_now(worker, silent_s),
        worker.leases,
        worker.claimed,
        worker.completed,
        worker.failed,
        f"{worker.usage.cpu_cores:.0%}" if worker.HasField("usage") else "",
        size(worker.usage.memory_bytes) if worker.HasField("usage") else "",
        "now" if silent_s < 1 else f"{span(silent_s)} ago",
    )


def doing_now(worker: WorkerInfo, silent_s: float) -> Text:
    """What a worker is doing, as far as that is known."""
    says_itself = worker.types or worker.any_type
    if worker.lost or (silent_s > SILENT_S and not says_itself):
        return Text("lost", style="red")
    if worker.leases:
        return Text("working", style="green")
    if worker.waiting:
        return Text("waiting", style="cyan")
    return Text("idle", style="dim")
