"""Log lines for the events of tasks, several for each task: for close inspection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from tq.v1 import task_pb2
from tq_cluster.core.model.events import TaskEvent, What
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_common.log_lines import timestamp
from tq_common.traceparents import trace_id_of

_logger = logging.getLogger(__name__)


def writer(
    *, wanted: bool, namespaces: Namespaces = ONLY_DEFAULT
) -> Callable[[TaskEvent], None] | None:
    """Return the function that writes the lines; None if they are not wanted."""
    if not wanted:
        return None
    # Independent of the level of all other lines.
    _logger.setLevel(logging.INFO)
    return partial(write, namespaces=namespaces)


def write(event: TaskEvent, namespaces: Namespaces = ONLY_DEFAULT) -> None:
    """Write one line, without empty keys; the default namespace is not named."""
    keys: dict[str, object] = {
        "task_id": event.task_id,
        "queue": event.queue,
        "type": event.task_type,
    }
    if event.namespace != DEFAULT_NAMESPACE:
        keys["namespace"] = namespaces.name_of(event.namespace)
    if event.attempt:
        keys["attempt"] = event.attempt
    if event.worker_id:
        keys["worker_id"] = event.worker_id
    if event.what is What.RETRIED:
        keys["due_at"] = timestamp(event.due_at_ms / 1000)
    elif event.what is What.DEAD:
        name = task_pb2.FailureReason.Name(event.reason)
        keys["reason"] = name.removeprefix("FAILURE_REASON_")
    if trace_id := trace_id_of(event.traceparent):
        keys["trace_id"] = trace_id
    _logger.info(event.what.value, extra=keys)
