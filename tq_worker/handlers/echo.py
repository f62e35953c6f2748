"""`echo`: returns its payload."""

from __future__ import annotations

from tq_worker import TaskContext, task


@task("echo")
async def echo(payload: bytes, _context: TaskContext) -> bytes:
    """Return the payload as it came."""
    return payload
