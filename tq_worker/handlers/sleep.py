"""`sleep`: waits for as many seconds as its payload says, "1.5" for example."""

from __future__ import annotations

import asyncio
import math

from tq_worker import PermanentError, TaskContext, task


@task("sleep")
async def sleep(payload: bytes, _context: TaskContext) -> bytes:
    """Wait, then return the payload; cancelled at any moment."""
    await asyncio.sleep(_seconds(payload))
    return payload


def _seconds(payload: bytes) -> float:
    try:
        seconds = float(payload)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise PermanentError(f"the payload must be a number of seconds, not {payload[:100]!r}")
    return seconds
