"""Log lines: an event and its keys, as text for people or as one JSON object for machines.

Both formatters ask ``keys_of`` for the keys of a record, which adds to `own_keys` what the process
knows of the moment: the active trace, the current task.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from tq_common.visible import visible

KeysOf: TypeAlias = Callable[[logging.LogRecord], Mapping[str, object]]

_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def own_keys(record: logging.LogRecord) -> dict[str, Any]:
    """Return the keys that were given as ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _RECORD_FIELDS}


def trace_keys(own: Mapping[str, object], active: Mapping[str, str]) -> Mapping[str, str]:
    """Return the ids of the active span, except for a line that names another trace itself.

    A line about a task names the task's trace, and may be written inside a span of another.
    """
    trace_id = active.get("trace_id")
    return active if own.get("trace_id", trace_id) == trace_id else {}


def timestamp(seconds: float) -> str:
    """Format an instant, in seconds since 1970, as all log lines do: in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z n1 info     lease expired task_id=t1 attempt=3``."""

    def __init__(self, keys_of: KeysOf, node_id: str = "") -> None:
        """``node_id`` stands in each line; empty: no line has one."""
        super().__init__()
        self._keys_of = keys_of
        self._source = f" {node_id}" if node_id else ""

    def format(self, record: logging.LogRecord) -> str:
        keys = "".join(f" {key}={_plain(value)}" for key, value in self._keys_of(record).items())
        level = record.levelname.lower()
        line = f"{timestamp(record.created)}{self._source} {level:<8} {record.getMessage()}{keys}"
        if record.exc_info:
            line += "\n" + visible(self.formatException(record.exc_info), lines=True)
        return line


class JsonFormatter(logging.Formatter):
    """One object per line: time, node, level, logger, event, and the event's keys."""

    def __init__(self, keys_of: KeysOf, node_id: str = "") -> None:
        """``node_id`` is the value of "node"; empty: there is no such key."""
        super().__init__()
        self._keys_of = keys_of
        self._source = {"node": node_id} if node_id else {}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": timestamp(record.created),
            **self._source,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._keys_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def formatter(style: str, keys_of: KeysOf, node_id: str = "") -> logging.Formatter:
    """Return the formatter of a style, "text" or "json"."""
    if style == "json":
        return JsonFormatter(keys_of, node_id)
    return TextFormatter(keys_of, node_id)


def _plain(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    plain = text.isprintable() and not any(char in ' "=' for char in text)
    return text if text and plain else json.dumps(text)
