"""Log lines: an event and its keys, as text for people or as JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from tq_cluster.telemetry import tracing
from tq_common.visible import visible

_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def keys_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the keys given as ``extra``, and the trace that the line belongs to."""
    keys = {key: value for key, value in vars(record).items() if key not in _RECORD_FIELDS}
    return {**keys, **tracing.active_ids()}


_GRPC_CORE = "grpc._cython.cygrpc"


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the line about an answer whose caller had gone: gRPC logs it as a handler's error."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def timestamp(seconds: float) -> str:
    """Format a time as all log lines do."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z info    lease expired task_id=t1 attempt=3``."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        keys = "".join(f" {key}={_plain(value)}" for key, value in keys_of(record).items())
        level = record.levelname.lower()
        line = f"{timestamp(record.created)} {self._node_id} {level:<8} {record.getMessage()}{keys}"
        if record.exc_info:
            line += "\n" + visible(self.formatException(record.exc_info), lines=True)
        return line


class JsonFormatter(logging.Formatter):
    """One object per line: time, node, level, logger, event, and the event's keys."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "node": self._node_id,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **keys_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(
    *,
    node_id: str,
    style: Literal["text", "json"],
    level: str,
    stream: TextIO | None = None,
) -> None:
    """Send every logger's lines to standard error, or to ``stream``."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(node_id) if style == "json" else TextFormatter(node_id))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs every selector at debug level.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger(_GRPC_CORE).addFilter(_is_news)


def flush() -> None:
    """Flush every line, before the process ends abruptly."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _plain(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not any(char in ' "=' for char in text)
    return text if text and plain else json.dumps(text)
