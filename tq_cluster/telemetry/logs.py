"""The log lines of a broker: which keys they have, and where they go."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal, TextIO

from tq_common.log_lines import formatter, own_keys, trace_keys
from tq_common.traces import active_ids


def keys_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the keys given as ``extra``, and the trace that the line belongs to."""
    own = own_keys(record)
    return {**own, **trace_keys(own, active_ids())}


_GRPC_CORE = "grpc._cython.cygrpc"


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the line about an answer whose caller had gone: gRPC logs it as a handler's error."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def set_up(
    *,
    node_id: str,
    style: Literal["text", "json"],
    level: str,
    stream: TextIO | None = None,
) -> None:
    """Send every logger's lines to standard error, or to ``stream``."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(style, keys_of, node_id))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs every selector at debug level.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger(_GRPC_CORE).addFilter(_is_news)


def flush() -> None:
    """Flush every line, before the process ends abruptly."""
    for handler in logging.getLogger().handlers:
        handler.flush()
