"""The actors of Dramatiq, for the submitter and for its worker."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.workloads import DONE, DRAINED, SUBMITTED


def noop(payload: str) -> str:
    """Return at once."""
    del payload
    return ""


def make(url: str) -> tuple[Any, dict[str, Any]]:
    """Make the broker, and an actor for each queue; only the awaited one stores results."""
    broker = RedisBroker(url=url, socket_timeout=30)
    broker.add_middleware(Results(backend=RedisBackend(url=url)))
    dramatiq.set_broker(broker)
    actors = {
        queue: dramatiq.actor(
            noop, actor_name=queue, queue_name=queue, broker=broker, store_results=queue == DONE
        )
        for queue in (SUBMITTED, DRAINED, DONE)
    }
    return broker, actors
