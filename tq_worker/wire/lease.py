"""A lease as the worker knows it, and why its handler is stopped."""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from tq.v1.worker_service_pb2 import ClaimedTask

CLOCK_RATE_ERROR = 0.01
"""By how much this machine's clock and the leader's may differ in rate."""
STOP_BEFORE = 1 / 6
"""The part of a lease's length before its end at which its handler is asked to stop, unless
renewed.
"""
KILL_BEFORE = 1 / 30
"""The part of a lease's length before its end at which a handler that still runs is killed."""
EXIT_BEFORE = 1 / 60
"""The same for a handler process that ends itself because the worker did not kill it."""


class Stop(enum.Enum):
    """Why a handler has been asked to stop."""

    TIMED_OUT = "the task's timeout has passed"
    CANCELLED = "the task was cancelled"
    LEASE_LOST = "the lease was lost"
    LEASE_OVER = "the lease is nearly over and could not be renewed"
    SHUTDOWN = "the worker shuts down"


class Runs(Protocol):
    """The handler process that runs an attempt, as its lease sees it."""

    def has_started(self, lease: Lease) -> bool:
        """Whether the handler has been called."""

    def renew(self, tokens: Iterable[int], until_s: float) -> None:
        """Send the new end of these leases."""

    def stop(self, lease: Lease, reason: str) -> None:
        """Ask the handler to stop."""

    def kill(self, reason: str) -> None:
        """Kill the process with all that it runs."""


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """One task that this worker holds."""

    task_id: str
    task_type: str
    queue: str = ""
    token: int
    attempt: int
    length_s: float
    until_s: float
    """Until when the lease surely holds, in seconds on CLOCK_BOOTTIME."""
    timeout_s: float | None
    process: Runs | None = None
    """The process that the task was handed to; None before, and once its attempt has ended."""
    place: int = -1
    """Its place in that process's order."""
    stop: Stop | None = None
    kill_at_s: float = math.inf
    """When a handler that was asked to stop is killed."""
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)
    """The timer of the task's timeout, while its handler runs."""
    traceparent: str = ""
    """The trace context of the claim, else of the task; empty if there is none."""
    taken_ns: int = field(default_factory=time.time_ns)
    """When the lease was granted, by this machine's wall clock."""
    reporting: Span | None = field(default=None, repr=False)
    """The span of its report, which ends when the report is answered."""

    @classmethod
    def of(cls, claimed: ClaimedTask, sent_at_s: float) -> Lease:
        """Make the lease that the answer to a claim sent at ``sent_at_s`` grants."""
        spec = claimed.spec
        length_s = claimed.lease.ToMilliseconds() / 1000
        waited_s = claimed.waited.ToMicroseconds() / 1e6
        return cls(
            task_id=spec.task_id,
            task_type=spec.type,
            queue=spec.queue,
            token=claimed.token,
            attempt=claimed.attempt,
            length_s=length_s,
            until_s=believed_end_s(sent_at_s, waited_s, length_s),
            timeout_s=spec.timeout.ToMilliseconds() / 1000 if spec.HasField("timeout") else None,
            traceparent=claimed.traceparent or spec.traceparent,
        )

    def stop_due(self, now_s: float) -> bool:
        """Whether the handler must be asked to stop, because no renewal came."""
        return now_s >= self.until_s - self.length_s * STOP_BEFORE

    def kill_due(self, now_s: float) -> bool:
        """Whether a handler that still runs must be killed."""
        return now_s >= self.kill_at_s or now_s >= self.until_s - self.length_s * KILL_BEFORE


def believed_end_s(sent_at_s: float, waited_s: float, length_s: float) -> float:
    """Until when a lease surely holds, if a call sent at ``sent_at_s`` granted or renewed it.

    The leader counted both spans, on a clock that may run faster than this machine's.
    """
    return sent_at_s + (waited_s + length_s) * (1 - CLOCK_RATE_ERROR)
