"""The context of a handler, and the results that it may return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic

from tq_client.dependencies import moved
from tq_common.clock import boottime_s
from tq_common.limits import COMPLETION_TASKS_MAX, MAX_ATTEMPTS_DEFAULT
from tq_worker.api.errors import TaskCancelledError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from tq.v1.task_pb2 import TaskSpec
    from tq.v1.worker_service_pb2 import ClaimedTask


if TYPE_CHECKING:
    B_co = TypeVar("B_co", covariant=True, default=bytes)
else:
    from typing import TypeVar

    # Type checkers know the default of a TypeVar; Python does from 3.13 on.
    B_co = TypeVar("B_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Result(Generic[B_co]):
    """What a handler returns to add a content type or further tasks to its value.

    A handler of bytes returns a `Result[bytes]`. A typed function annotated with `Result[Size]`
    returns one whose body is a Size.
    """

    body: B_co = b""  # type: ignore[assignment]  # for the default of B_co
    content_type: str = ""
    """Only for a handler of bytes."""
    submit: Sequence[TaskSpec] = ()
    """Tasks that are created if and only if this attempt's completion is recorded; at most 100,
    including those of `TaskContext.submit_on_success`. A whole number in ``depends_on`` is a
    position in this list."""


class Cancellation:
    """Whether a handler must stop; any thread may check it and wait for it."""

    __slots__ = ("_event", "_waiters", "reason")

    def __init__(self) -> None:
        self.reason = ""
        """Why the handler must stop, for people; empty while it need not."""
        # Both are made on the first wait: most handlers never wait.
        self._event: threading.Event | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def is_set(self) -> bool:
        return bool(self.reason)

    async def wait(self) -> None:
        """Return once the handler must stop."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.append((loop, waiter))
        # Check the reason after listing the waiter: set() does the two in the other order.
        if not self.reason:
            await waiter

    def wait_blocking(self, timeout_s: float | None = None) -> bool:
        """Block this thread until the handler must stop; False after ``timeout_s``."""
        if self._event is None:
            self._event = threading.Event()
        if self.reason:
            return True
        return self._event.wait(timeout_s)

    def set(self, reason: str) -> None:
        """Ask the handler to stop; called by the worker."""
        self.reason = self.reason or reason
        if self._event is not None:
            self._event.set()
        for loop, waiter in self._waiters:
            loop.call_soon_threadsafe(_resolve, waiter)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class TaskContext:
    """One attempt at one task, as its handler sees it."""

    __slots__ = ("_claimed", "_lease_until_s", "_started_s", "cancelled", "submits")

    def __init__(self, claimed: ClaimedTask, lease_until_s: float) -> None:
        self.cancelled = Cancellation()
        """Set when the handler must stop: its task was cancelled, its timeout or its lease is over,
        or the worker shuts down. An async handler is cancelled at the same moment; a sync one must
        check this.
        """
        self.submits: list[TaskSpec] = []
        """The tasks given to `submit_on_success`; positions in ``depends_on`` are those in here."""
        self._claimed = claimed
        self._lease_until_s = lease_until_s
        self._started_s = boottime_s()

    @property
    def task_id(self) -> str:
        return self._claimed.spec.task_id

    @property
    def queue(self) -> str:
        return self._claimed.spec.queue

    @property
    def type(self) -> str:
        return self._claimed.spec.type

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._claimed.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts the task may have, including the first."""
        return self._claimed.spec.max_attempts or MAX_ATTEMPTS_DEFAULT

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure of this attempt makes the task a dead letter."""
        return self.attempt >= self.max_attempts

    @property
    def priority(self) -> int:
        """0, the least urgent, to 255."""
        return self._claimed.spec.priority

    @property
    def submitted_at(self) -> datetime:
        """When the cluster accepted the task, by the cluster's clock, in UTC."""
        return self._claimed.submitted_at.ToDatetime(UTC)

    @property
    def token(self) -> int:
        """The lease's fencing token.

        Send it with every write to another system, and have that system refuse lower tokens.
        """
        return self._claimed.token

    @property
    def labels(self) -> Mapping[str, str]:
        return self._claimed.spec.labels

    @property
    def content_type(self) -> str:
        return self._claimed.spec.content_type

    @property
    def traceparent(self) -> str:
        """The submitter's trace context (W3C "traceparent"); empty if it gave none."""
        return self._claimed.spec.traceparent

    @property
    def deadline_s(self) -> float | None:
        """When the task's timeout ends this attempt, in seconds on CLOCK_BOOTTIME.

        None if the task has no timeout.
        """
        if not self._claimed.spec.HasField("timeout"):
            return None
        return self._started_s + self._claimed.spec.timeout.ToMilliseconds() / 1000

    @property
    def lease_until_s(self) -> float:
        """Until when this worker surely holds the only lease, in seconds on CLOCK_BOOTTIME.

        Each heartbeat moves it ahead. The handler is stopped before this time.
        """
        return self._lease_until_s

    def submit_on_success(self, *specs: TaskSpec) -> None:
        """Have tasks created if and only if this attempt's completion is recorded.

        `task_spec(...)` and a typed task's `spec(...)` make them. A whole number in ``depends_on``
        is a position among the tasks of this call; the context itself stands for its own task.
        Raises ValueError for more than 100. If a task with the same id exists, the completion
        fails, unless the new task was made with if_exists="keep".
        """
        if len(self.submits) + len(specs) > COMPLETION_TASKS_MAX:
            raise ValueError(f"a completion submits at most {COMPLETION_TASKS_MAX} tasks")
        self.submits.extend(moved(specs, len(self.submits)))

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelledError if the handler must stop; for loops in sync handlers."""
        if self.cancelled.reason:
            raise TaskCancelledError(self.cancelled.reason)

    def extend(self, lease_until_s: float) -> None:
        """Set the new end of a renewed lease; called by the worker."""
        self._lease_until_s = lease_until_s


RUNNING: ContextVar[TaskContext | None] = ContextVar("the attempt that runs here", default=None)


def current_task() -> TaskContext | None:
    """Return the context of the attempt that runs here, even if its handler does not take one.

    Returns None outside a handler, and in a thread that a handler has started itself.
    """
    return RUNNING.get()
