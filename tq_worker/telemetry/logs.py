"""Log lines: an event and its keys, as text or as one JSON object a line."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys

from tq_common.visible import visible
from tq_worker.api.context import current_task
from tq_worker.telemetry import tracing

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """For people: time, level, event, key=value."""

    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{key}={_plain(value)}" for key, value in _facts(record).items())
        text = (
            f"{_time(record)} {record.levelname.lower():7} {record.getMessage()} {facts}".rstrip()
        )
        if record.exc_info:
            text += "\n" + visible(self.formatException(record.exc_info), lines=True)
        return text


class JsonFormatter(logging.Formatter):
    """For machines."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


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
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def reinstate() -> None:
    """Enable the worker's own loggers again after the handlers' modules were imported.

    By default `logging.config` disables all existing loggers.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "tq_worker":
            logger.disabled = False


def _facts(record: logging.LogRecord) -> dict[str, object]:
    facts = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return {**tracing.active_ids(), **task_facts(), **facts}


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    text = str(value)
    plain = text.isprintable() and not any(each in text for each in ' "=')
    return text if text and plain else json.dumps(text)


def _time(record: logging.LogRecord) -> str:
    instant = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
