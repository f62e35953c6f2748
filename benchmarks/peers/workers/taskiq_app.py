"""The brokers of taskiq, for the submitter and for its worker."""

from __future__ import annotations

from typing import Any, Final

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.workloads import DONE, DRAINED, SUBMITTED

QUEUE: Final = "TQ_PEERS_QUEUE"
"""Environment variable: the queue of a worker."""
QUEUES: Final = (SUBMITTED, DRAINED, DONE)


async def noop(payload: str) -> str:
    """Return at once."""
    del payload
    return ""


def make(url: str, queue: str) -> tuple[Any, Any]:
    """Make a queue's broker and task; only the awaited one stores results."""
    broker = RedisStreamBroker(url, queue_name=queue, consumer_id="0")
    if queue == DONE:
        broker = broker.with_result_backend(RedisAsyncResultBackend(url, result_ex_time=600))
    return broker, broker.task(task_name="noop")(noop)
