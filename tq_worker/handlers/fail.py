"""`fail`: raises.

The payload is empty or says how: {"message": "no", "permanent": true, "attempts": 2}.
"""

from __future__ import annotations

import json

from tq_worker import PermanentError, RetryableError, TaskContext, task


@task("fail")
async def fail(payload: bytes, context: TaskContext) -> bytes:
    """Raise in each of the first ``attempts`` attempts, by default in all; a later one succeeds."""
    wish = _wish(payload)
    attempts = wish.get("attempts")
    if isinstance(attempts, int) and context.attempt > attempts:
        return f"succeeded in attempt {context.attempt}".encode()
    message = str(wish.get("message", "asked to fail"))
    if wish.get("permanent"):
        raise PermanentError(message)
    raise RetryableError(message)


def _wish(payload: bytes) -> dict[str, object]:
    if not payload:
        return {}
    try:
        wish = json.loads(payload)
    except ValueError as error:
        raise PermanentError(f"the payload must be empty or JSON: {error}") from error
    if not isinstance(wish, dict):
        raise PermanentError("the payload must be a JSON object")
    return wish
