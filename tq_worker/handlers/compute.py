"""`compute`: keeps a processor busy for as many rounds of SHA-256 as its payload says."""

from __future__ import annotations

import hashlib

from tq_worker import PermanentError, TaskContext, task

ROUNDS_PER_LOOK = 1000


@task("compute")
def compute(payload: bytes, context: TaskContext) -> bytes:
    """Hash the task's id over and over; returns the last digest as hex."""
    try:
        rounds = int(payload)
    except ValueError:
        rounds = -1
    if rounds < 0:
        raise PermanentError(f"the payload must be a number of rounds, not {payload[:100]!r}")
    digest = context.task_id.encode()
    for at in range(rounds):
        digest = hashlib.sha256(digest).digest()
        if at % ROUNDS_PER_LOOK == 0:
            context.raise_if_cancelled()
    return digest.hex().encode()
