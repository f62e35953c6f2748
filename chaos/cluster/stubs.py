"""Calls through generated stubs alone, as any language has them, with a few lines for retries.

A call is repeated until it is answered: same ``request_id``, growing ``retry_age``, next broker.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from chaos.history.calls import Call
from chaos.history.record import Ledger
from tq.v1 import (
    errors_pb2,
    queue_service_pb2_grpc,
    task_service_pb2_grpc,
    worker_service_pb2_grpc,
)

if TYPE_CHECKING:
    from tq.v1.queue_service_pb2_grpc import QueueServiceAsyncStub
    from tq.v1.task_service_pb2_grpc import TaskServiceAsyncStub
    from tq.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

CallT = TypeVar("CallT", bound=Call)
ReplyT = TypeVar("ReplyT")

RETRY_S = 0.03
RETRY_MAX_S = 0.3
CHANNEL_OPTIONS = (
    # A restarted broker must be found at once, not after a back-off of seconds.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)
_STATUS_KEY = "grpc-status-details-bin"
_NOT_APPLIED = frozenset(
    {
        "NOT_LEADER",
        "NO_LEADER",
        "OVERLOADED",
        "REQUEST_IDS_EXHAUSTED",
        "DISK_PRESSURE",
        "INTERNAL",
    }
)
"""Reasons that mean: not applied, try again."""
_MAYBE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # A broker that was paused past the call's deadline resets its stream when it wakes.
        grpc.StatusCode.CANCELLED,
    }
)
"""Failures of the connection: the outcome of the call is unknown."""


class UnansweredError(AssertionError):
    """No broker answered in time; the call's outcome stays unknown."""


class StubRefusedError(AssertionError):
    """A broker refused a call, and no retry helps."""


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker's stubs."""

    address: str
    channel: aio.Channel
    tasks: TaskServiceAsyncStub
    workers: WorkerServiceAsyncStub
    queues: QueueServiceAsyncStub


def connect(address: str) -> Broker:
    """Make the stubs of one broker; nothing is sent yet."""
    channel = aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return Broker(
        address,
        channel,
        task_service_pb2_grpc.TaskServiceStub(channel),
        worker_service_pb2_grpc.WorkerServiceStub(channel),
        queue_service_pb2_grpc.QueueServiceStub(channel),
    )


def reason_of(error: aio.AioRpcError) -> str:
    """Read ErrorInfo.reason of a failed call; empty if the connection failed."""
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


def seconds(value: float) -> Duration:
    """Convert seconds to a Duration message."""
    duration = Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


class StubCaller:
    """Sends calls to a broker that answers, and records each sending in the ledger."""

    def __init__(self, addresses: Sequence[str], ledger: Ledger, actor: str) -> None:
        self.ledger = ledger
        self.actor = actor
        self.brokers = [connect(address) for address in addresses]
        self._turns = itertools.count()

    async def close(self) -> None:
        """Close every connection."""
        for broker in self.brokers:
            await broker.channel.close()

    async def until_answered(
        self,
        begin: Callable[[], CallT],
        send: Callable[[Broker, Duration, CallT], Awaitable[ReplyT]],
        *,
        within_s: float,
    ) -> ReplyT:
        """Send until there is an answer; each sending is a call of its own."""
        first_s = time.monotonic()
        turn = next(self._turns)
        sending = 0
        while True:
            sending += 1
            broker = self.brokers[(turn + sending) % len(self.brokers)]
            call = begin()
            try:
                return await send(broker, seconds(time.monotonic() - first_s), call)
            except aio.AioRpcError as error:
                refusal = self._note(call, error)
                if refusal is not None:
                    raise refusal from error
            if time.monotonic() - first_s > within_s:
                raise UnansweredError(f"{self.actor}: no answer within {within_s} s: {call}")
            await asyncio.sleep(min(RETRY_S * sending, RETRY_MAX_S))

    def _note(self, call: Call, error: aio.AioRpcError) -> StubRefusedError | None:
        """Record what a failed call shows; return the error if no retry helps."""
        reason = reason_of(error)
        detail = f"{error.code().name} {reason}".strip()
        if reason in _NOT_APPLIED:
            self.ledger.refused(call, detail)
            return None
        outcome_unknown = reason == errors_pb2.ErrorReason.Name(
            errors_pb2.ERROR_REASON_OUTCOME_UNKNOWN
        ).removeprefix("ERROR_REASON_")
        if outcome_unknown or (not reason and error.code() in _MAYBE):
            self.ledger.unanswered(call, detail)
            return None
        self.ledger.refused(call, detail)
        return StubRefusedError(f"{self.actor}: {detail} {error.details()}")
