"""Log lines for the events of tasks, several for each task: for close inspection."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tq.v1 import task_pb2
from tq_cluster.core.kernel.validation import is_traceparent
from tq_cluster.core.model.events import TaskEvent, What
from tq_cluster.telemetry.logs import timestamp

_logger = logging.getLogger(__name__)


def writer(*, wanted: bool) -> Callable[[TaskEvent], None] | None:
    """Return the function that writes the lines; None if they are not wanted."""
    if not wanted:
        return None
    # Independent of the level of all other lines.
    _logger.setLevel(logging.INFO)
    return write


def write(event: TaskEvent) -> None:
    """Write one line, without empty keys."""
    keys: dict[str, object] = {
        "task_id": event.task_id,
        "queue": event.queue,
        "type": event.task_type,
    }
    if event.attempt:
        keys["attempt"] = event.attempt
    if event.worker_id:
        keys["worker_id"] = event.worker_id
    if event.what is What.RETRIED:
        keys["due_at"] = timestamp(event.due_at_ms / 1000)
    elif event.what is What.DEAD:
        name = task_pb2.FailureReason.Name(event.reason)
        keys["reason"] = name.removeprefix("FAILURE_REASON_")
    if is_traceparent(event.traceparent):
        keys["trace_id"] = event.traceparent.split("-")[1]
    _logger.info(event.what.value, extra=keys)
