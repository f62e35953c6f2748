"""A lease as the worker believes in it, and how the attempt under it ends."""

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
"""The same for a handler process that ends itself, as nobody else did."""


class Stop(enum.Enum):
    """Why a handler has been asked to stop."""

    TIMED_OUT = "the task's timeout has passed"
    CANCELLED = "the task was cancelled"
    LEASE_LOST = "the lease was lost"
    LEASE_OVER = "the lease is nearly over and could not be renewed"
    SHUTDOWN = "the worker shuts down"


class Runs(Protocol):
    """What runs an attempt, as its lease knows it: a handler process."""

    def has_started(self, lease: Lease) -> bool:
        """Whether the handler has been called."""

    def renew(self, tokens: Iterable[int], until_s: float) -> None:
        """Tell it until when these leases hold."""

    def stop(self, lease: Lease, reason: str) -> None:
        """Ask the handler to stop."""

    def kill(self, reason: str) -> None:
        """End it with all that it runs."""


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """One task in this worker's hands."""

    task_id: str
    task_type: str
    queue: str = ""
    token: int
    attempt: int
    length_s: float
    until_s: float
    """The end by the worker's belief, on CLOCK_BOOTTIME."""
    timeout_s: float | None
    process: Runs | None = None
    """Where it was handed in; None before, and again once its attempt has ended."""
    place: int = -1
    """Its place in that process's order."""
    stop: Stop | None = None
    kill_at_s: float = math.inf
    """When patience with a handler that was asked to stop ends."""
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)
    """Runs while a handler with a timeout does."""
    traceparent: str = ""
    """The trace context of the grant, else of the task; empty where it has none."""
    taken_ns: int = field(default_factory=time.time_ns)
    """When it came, by the wall clock."""
    reporting: Span | None = field(default=None, repr=False)
    """Ends when its report is answered."""

    @classmethod
    def of(cls, claimed: ClaimedTask, sent_at_s: float) -> Lease:
        """Believe in the lease that the answer to a claim sent at ``sent_at_s`` grants."""
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
        """Whether the handler must be asked to stop, as no renewal came."""
        return now_s >= self.until_s - self.length_s * STOP_BEFORE

    def kill_due(self, now_s: float) -> bool:
        """Whether a handler that still runs must be killed."""
        return now_s >= self.kill_at_s or now_s >= self.until_s - self.length_s * KILL_BEFORE


def believed_end_s(sent_at_s: float, waited_s: float, length_s: float) -> float:
    """Until when a lease surely holds that was granted or renewed by a call sent at ``sent_at_s``.

    The leader counted both spans, on a clock that may run faster than this machine's.
    """
    return sent_at_s + (waited_s + length_s) * (1 - CLOCK_RATE_ERROR)
