"""For tests of handlers: the context that a worker would pass.

from tq_worker.testing import task_context

def test_the_last_attempt_tells_the_operator() -> None:
    context = task_context(attempt=5)
    ...
"""

from __future__ import annotations

import time

from tq.v1.task_pb2 import TaskSpec
from tq.v1.worker_service_pb2 import ClaimedTask
from tq_common.clock import boottime_s
from tq_worker.api.context import TaskContext


def task_context(
    spec: TaskSpec | None = None, *, attempt: int = 1, token: int = 1, lease_s: float = 30.0
) -> TaskContext:
    """Make the context of one attempt, without a queue and a worker.

    What the handler gives to `submit_on_success` is in the context's ``submits``. To test how it
    stops, call ``context.cancelled.set("a reason")``; for an async handler also cancel its asyncio
    task, as the worker does. Raises ValueError for a number out of range.

    Args:
        spec: the task, as a typed task's `spec(...)` and `task_spec(...)` make it, with its queue,
            type, labels, retries and so on; by default a task of type "test" in queue "default".
        attempt: the number of the attempt, from 1.
        token: the fencing token of its lease, from 1.
        lease_s: the length of the lease, in seconds, which begins now.
    """
    if attempt < 1:
        raise ValueError(f"attempt: {attempt} is below 1")
    if token < 1:
        raise ValueError(f"token: {token} is below 1")
    if lease_s <= 0:
        raise ValueError(f"lease_s: {lease_s:g} is not above 0")
    claimed = ClaimedTask(token=token, attempt=attempt)
    if spec is None:
        claimed.spec.queue, claimed.spec.type = "default", "test"
    else:
        claimed.spec.CopyFrom(spec)
    claimed.spec.task_id = claimed.spec.task_id or "test"
    claimed.lease.FromMilliseconds(round(lease_s * 1000))
    claimed.submitted_at.FromMilliseconds(round(time.time() * 1000))
    return TaskContext(claimed, boottime_s() + lease_s)
