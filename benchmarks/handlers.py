"""What the benchmark's worker runs: nothing."""

from __future__ import annotations

from tq_worker import TaskContext, task


@task("noop")
async def noop(payload: bytes, context: TaskContext) -> bytes:
    """Return at once."""
    del payload, context
    return b""
