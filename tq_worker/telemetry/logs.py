"""The log lines of a worker: which keys they have, and where they go."""

from __future__ import annotations

import logging
import sys

from tq_common.log_lines import formatter, own_keys, trace_keys
from tq_worker.api.context import current_task
from tq_worker.telemetry import tracing


class TaskLogFilter(logging.Filter):
    """Gives each record the attributes task_id, task_type, queue, attempt and trace_id.

    For programs that set up `logging` themselves: add it to a logging handler. Outside an attempt
    the attributes are empty. Attributes that a record already has are kept.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass every record."""
        facts: dict[str, object] = {**tracing.active_ids(), **task_facts()}
        facts["task_type"] = facts.get("type", "")
        for name in ("task_id", "task_type", "queue", "attempt", "trace_id"):
            if not hasattr(record, name):
                setattr(record, name, facts.get(name, ""))
        return True


def keys_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the keys given as ``extra``, after those of the active trace and the current task.

    A key that was given stays as it was given.
    """
    own = own_keys(record)
    return {**trace_keys(own, tracing.active_ids()), **task_facts(), **own}


def task_facts() -> dict[str, object]:
    """The keys of a log line that name the current attempt; empty outside one."""
    running = current_task()
    if running is None:
        return {}
    return {
        "task_id": running.task_id,
        "queue": running.queue,
        "type": running.type,
        "attempt": running.attempt,
    }


def configure(log_format: str) -> None:
    """Send every log line to standard error in this format, "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format, keys_of))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def reinstate() -> None:
    """Enable the worker's own loggers again after the handlers' modules were imported.

    By default `logging.config` disables all existing loggers.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "tq_worker":
            logger.disabled = False
