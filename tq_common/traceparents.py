"""W3C trace contexts, as text ("traceparent")."""

from __future__ import annotations

import re
from typing import Final

parse_traceparent: Final = re.compile(
    r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
).fullmatch
"""Match a trace context; its groups are the ids of trace and span, and the flags, in hex."""


def trace_id_of(traceparent: str) -> str:
    """Return the id of the trace that a trace context names; empty if it is not a valid one."""
    match = parse_traceparent(traceparent)
    return match[1] if match else ""
