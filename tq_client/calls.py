"""One call from its first attempt to its answer: attempts, pauses, the deadline.

A call that carries a request_id is repeated byte for byte, except for its retry_age: the time since
it was first sent. Within their window the brokers recognise the repetition; after it they refuse
the call rather than apply it twice.
"""

from __future__ import annotations

import asyncio
import enum
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message
from grpc import aio

from tq_client import errors, forks, tracing
from tq_client.connections import CONNECT_TIMEOUT_S, Connection, Connections
from tq_client.conversation import REQUEST_BYTES_MAX, Conversation, NotTakenError
from tq_client.errors import Reason, TqError
from tq_common.backoff import Pauses
from tq_common.clock import boottime_s
from tq_common.limits import MESSAGE_BYTES_MAX

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)

PAUSE_FIRST_S = 0.02
PAUSE_MAX_S = 1.0
ATTEMPT_FIRST_S = 0.5
"""How long the first attempt may take before another broker is asked. Each timeout doubles it.

Brokers elect a new leader within that time when theirs falls silent.
"""
ATTEMPT_MAX_S = 8.0
USED_UP_SHARE = 0.8
"""An attempt that took this share of its time limit was given too little, however it ended."""
CANNOT_CONNECT = "cannot connect"
ANSWERS_TOLD_MAX = 5
"""How many brokers' last answers an error quotes, at most."""
BYTES_PER_S = 1 << 20
"""The rate of a slow network, by which a large request is given more time."""
HOLD_SLACK_S = 1.5
CLIENT_METADATA = ("tq-client", f"tq/{version('tq')}/python")


class Repeat(enum.Enum):
    """When a call may be made again after an attempt whose outcome is unknown."""

    READ = enum.auto()
    """Always: it changes nothing."""
    IDEMPOTENT = enum.auto()
    """Always: a second call has no further effect."""
    BY_REQUEST_ID = enum.auto()
    """Always, because it carries a request_id; if the caller chose none, it is given one."""
    NEVER = enum.auto()
    """Never; only an attempt that is known not to have been applied is followed by another."""


# No slots in generic dataclasses: Python 3.11 cannot then make `Method[...](...)` when frozen.
@dataclass(frozen=True)
class Method(Generic[Request, Reply]):
    """A method of the API and how it may be repeated."""

    stub: Callable[[Connection], aio.UnaryUnaryMultiCallable[Request, Reply]]
    repeat: Repeat
    kind: str = ""
    """Its field in a message of a conversation; empty if conversations do not carry it."""


@dataclass(frozen=True)
class Answer(Generic[Reply]):
    """A reply, and when the answered attempt was sent."""

    reply: Reply
    sent_at_s: float
    """On `boottime_s`, the clock for leases, which runs on while the machine sleeps."""


_MAY_SUCCEED_ELSEWHERE = frozenset(
    {Reason.NOT_LEADER, Reason.NO_LEADER, Reason.NO_STATE, Reason.OUTCOME_UNKNOWN}
)


_NOTHING_APPLIED = (errors.UnsupportedError, errors.AccessDeniedError)
"""Refusals that depend on the broker that is asked, and on the time."""


class _AbandonedError(Exception):
    """An attempt was abandoned; the message says why."""


class Cancellable(Protocol):
    """A call, by itself or in a conversation."""

    def cancel(self) -> bool: ...


# Compared by identity: kept in a set.
@dataclass(slots=True, eq=False)
class _Flight:
    """An attempt that waits for the leader's answer."""

    call: Cancellable
    connection: Connection
    ends_with_reign: bool
    """Whether the call is made again, to the new leader, as soon as another broker leads."""
    abandoned: str = ""
    """Why the attempt was abandoned; empty if it was not."""

    def abandon(self, why: str) -> None:
        """Cancel the attempt."""
        self.abandoned = why
        self.call.cancel()


class Caller:
    """Makes each call to one broker after the other, until one answers or time is up."""

    def __init__(self, connections: Connections, draw: random.Random) -> None:
        self._connections = connections
        self._draw = draw
        self._flights: set[_Flight] = set()
        self._closed = asyncio.Event()
        self._awake = asyncio.Event()
        """Not set while the process forks: nothing is sent, nothing is opened."""
        self._awake.set()

    async def call(
        self,
        method: Method[Request, Reply],
        request: Request,
        *,
        timeout_s: float,
        hold_s: float = 0.0,
        traceparent: str | None = None,
    ) -> Answer[Reply]:
        """Make one call, which owns ``request`` and writes request_id and retry_age into it.

        ``hold_s`` is how long the broker may hold the call on purpose (a long poll).
        ``traceparent`` names the trace that the call belongs to; None: that of the caller's span.
        """
        forks.check()
        if traceparent is None:
            traceparent = tracing.current_traceparent()
        _check_size(request)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        # least_s: what sending and holding the call may take; attempt_s: what the answer may take.
        least_s = request.ByteSize() / BYTES_PER_S + (hold_s + HOLD_SLACK_S if hold_s else 0.0)
        attempt_s = ATTEMPT_FIRST_S
        pauses = Pauses(PAUSE_FIRST_S, PAUSE_MAX_S, share_min=0.0, draw=self._draw)
        again: Connection | None = None
        tried: dict[str, TqError] = {}
        first_sent_s: float | None = None
        maybe_applied = False
        if method.repeat is Repeat.BY_REQUEST_ID and not getattr(request, "request_id", ""):
            _set(request, request_id=uuid.uuid4().hex)
        while True:
            self._check_open(method, request, maybe_applied=maybe_applied)
            if not self._awake.is_set():
                await self._pause_until(self._awake, deadline_s - loop.time())
                if not self._awake.is_set():
                    raise errors.of_reason(Reason.NO_LEADER, "the process forks")
                continue
            now_s = loop.time()
            connection = again or self._connections.pick()
            answered = False
            if not connection.open() and not await connection.connect(
                min(CONNECT_TIMEOUT_S, deadline_s - now_s)
            ):
                error = errors.of_reason(Reason.NO_LEADER, CANNOT_CONNECT)
            else:
                now_s = loop.time()
                if first_sent_s is None:
                    first_sent_s = now_s
                elif method.repeat is Repeat.BY_REQUEST_ID:
                    _set_retry_age(request, now_s - first_sent_s)
                given_s = deadline_s - now_s
                if method.repeat is not Repeat.NEVER:
                    given_s = min(given_s, least_s + attempt_s)
                sent_at_s = boottime_s()
                try:
                    reply = await self._attempt(method, connection, request, traceparent, given_s)
                    return Answer(reply, sent_at_s)
                except aio.AioRpcError as rpc_error:
                    error = errors.of_rpc(rpc_error)
                    answered = self._heed(error, rpc_error.trailing_metadata() or ())
                    # Shortly before the deadline, a broker answers that it ran out of time.
                    if loop.time() - now_s >= given_s * USED_UP_SHARE:
                        attempt_s = min(ATTEMPT_MAX_S, attempt_s * 2)
                except _AbandonedError as abandoned:
                    error = errors.of_reason(Reason.OUTCOME_UNKNOWN, str(abandoned))
            tried.pop(connection.address, None)
            tried[connection.address] = error
            maybe_applied |= error.reason is Reason.OUTCOME_UNKNOWN
            if not _worth_repeating(error, method.repeat, maybe_applied=maybe_applied):
                if maybe_applied and isinstance(error, _NOTHING_APPLIED):
                    # True of this attempt alone: another broker may have taken an earlier one.
                    error = _refused_later(method, request, error)
                raise error
            if answered and connection is not again and error.reason is not Reason.NOT_LEADER:
                # It is alive and will soon learn who leads now; neither is known of the others.
                again = connection
            else:
                again = None
                if error.reason in _MAY_SUCCEED_ELSEWHERE:
                    self._connections.failed(connection)
            wait_s = (error.retry_after_s or 0.0) + pauses.next_s()
            if loop.time() + wait_s >= deadline_s:
                raise _given_up(tried, method, request, timeout_s, maybe_applied=maybe_applied)
            await self._pause_until(self._closed, wait_s)

    async def rest(self) -> None:
        """Close every channel and open none until ``go_on``; calls in flight are then repeated."""
        self._awake.clear()
        for flight in tuple(self._flights):
            flight.abandon("the process forks")
        await self._connections.close()

    @property
    def dialled(self) -> bool:
        """Whether a channel is open."""
        return self._connections.dialled

    def go_on(self) -> None:
        """Go on after ``rest``."""
        self._awake.set()

    async def close(self) -> None:
        """End every call at once; each error says whether the call may have been applied."""
        self._closed.set()
        self._awake.set()
        await self._connections.close()

    async def _attempt(
        self,
        method: Method[Request, Reply],
        connection: Connection,
        request: Request,
        traceparent: str,
        timeout_s: float,
    ) -> Reply:
        term = self._connections.term
        conversation = self._conversation(method, connection, request)
        began_s = asyncio.get_running_loop().time()
        if conversation is not None:
            asked = conversation.ask(method.kind, request, timeout_s, traceparent, term)
            try:
                said: Reply = await self._fly(method, connection, request, asked, asked)
            except NotTakenError:
                pass  # it can be made by itself
            else:
                self._learn(asked.leader, asked.term)
                return said
        metadata = [CLIENT_METADATA]
        if traceparent:
            metadata.append(("traceparent", traceparent))
        if term:
            metadata.append(("tq-min-term", str(term)))
        left_s = max(0.0, began_s + timeout_s - asyncio.get_running_loop().time())
        call = method.stub(connection)(request, timeout=left_s, metadata=metadata)
        reply: Reply = await self._fly(method, connection, request, call, call)
        self._learn(*_who_leads(await call.trailing_metadata()))
        return reply

    def _conversation(
        self, method: Method[Any, Any], connection: Connection, request: Message
    ) -> Conversation | None:
        """Return the conversation that a call is made in; None if it is made by itself."""
        if not method.kind or request.ByteSize() > REQUEST_BYTES_MAX:
            return None
        conversation = connection.conversation([CLIENT_METADATA])
        return None if conversation is None or conversation.full else conversation

    async def _fly(
        self,
        method: Method[Any, Any],
        connection: Connection,
        request: Message,
        call: Cancellable,
        answer: Awaitable[Any],
    ) -> Any:  # noqa: ANN401  # the method's reply
        of_leader = connection.address == self._connections.leader
        flight = _Flight(call, connection, method.repeat is not Repeat.NEVER and of_leader)
        self._flights.add(flight)
        try:
            reply = await answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # We cancelled the call. Its caller was not cancelled, and must not see it so.
            self._check_open(method, request, maybe_applied=True)
            if not self._awake.is_set():
                flight.abandoned = "the process forks"
            if flight.abandoned:
                raise _AbandonedError(flight.abandoned) from None
            raise
        finally:
            self._flights.discard(flight)
        self._connections.succeeded(connection)
        return reply

    def _heed(self, error: TqError, metadata: Metadata) -> bool:
        """Learn from a failed call who leads; True if a broker answered it."""
        leader, term = _who_leads(metadata)
        if error.reason is Reason.NO_LEADER:
            # The leader that the broker names is the one that it could not reach.
            self._connections.suspect(leader)
        if error.reason in {Reason.NO_LEADER, Reason.OUTCOME_UNKNOWN}:
            leader = ""
        self._learn(error.metadata.get("leader", leader), term or self._connections.term)
        return term > 0

    def _learn(self, leader: str, term: int) -> None:
        if self._connections.learn(leader, term):
            # A healthy deposed leader answers by itself; a silent one would not.
            for flight in self._flights:
                if flight.ends_with_reign and flight.connection.address != self._connections.leader:
                    flight.abandon(f"{flight.connection.address} leads no more")

    async def _pause_until(self, event: asyncio.Event, most_s: float) -> None:
        try:
            async with asyncio.timeout(most_s):
                await event.wait()
        except TimeoutError:
            return

    def _check_open(
        self, method: Method[Any, Any], request: Message, *, maybe_applied: bool
    ) -> None:
        if not self._closed.is_set():
            return
        if maybe_applied and method.repeat is not Repeat.READ:
            raise errors.OutcomeUnknownError(
                "the client was closed before an answer was had",
                reason=Reason.OUTCOME_UNKNOWN,
                metadata=_naming(request),
            )
        raise errors.UnavailableError("the client is closed")


_TERM_DIGITS_MAX = 19


def _check_size(request: Message) -> None:
    size = request.ByteSize()
    # A larger call would be cut off by the brokers' gRPC, without a reason.
    if size > MESSAGE_BYTES_MAX:
        raise errors.of_reason(
            Reason.PAYLOAD_TOO_LARGE,
            f"the call has {size:,} bytes and a broker takes {MESSAGE_BYTES_MAX:,}; not sent",
            metadata={"limit": str(MESSAGE_BYTES_MAX), "actual": str(size)},
        )


def _who_leads(metadata: Metadata) -> tuple[str, int]:
    """Read the leader's address and the term that a broker named, else an empty string and 0."""
    leader, term = "", 0
    for key, value in metadata:
        if key == "tq-leader" and isinstance(value, str):
            leader = value
        elif key == "tq-term" and isinstance(value, str):
            # Do not convert a text longer than any number of 62 bits.
            sound = len(value) <= _TERM_DIGITS_MAX and value.isascii() and value.isdecimal()
            term = int(value) if sound else 0
    return leader, term


def _worth_repeating(error: TqError, repeat: Repeat, *, maybe_applied: bool) -> bool:
    if maybe_applied and repeat is Repeat.NEVER:
        return False
    if error.reason is Reason.OUTCOME_UNKNOWN and "limit" in error.metadata:
        return False  # one leader after the other broke while it had this call
    if error.reason in _MAY_SUCCEED_ELSEWHERE:
        return True
    return isinstance(error, errors.BusyError) and error.retry_after_s is not None


def _refused_later(method: Method[Any, Any], request: Message, error: TqError) -> TqError:
    """Make the error for a call that was refused after an attempt that may have been applied."""
    if method.repeat is Repeat.READ:
        return error
    return errors.OutcomeUnknownError(
        f"an earlier attempt may have been applied; the last was refused: {error}",
        reason=Reason.OUTCOME_UNKNOWN,
        metadata=_naming(request),
    )


def _given_up(
    tried: Mapping[str, TqError],
    method: Method[Any, Any],
    request: Message,
    timeout_s: float,
    *,
    maybe_applied: bool,
) -> TqError:
    """Make the error for a call without an answer, with each broker's last answer."""
    *_, last = tried.values()
    message = f"no answer within {timeout_s:.3g} s; {_answers(tried)}"
    if maybe_applied and method.repeat is not Repeat.READ:
        return errors.OutcomeUnknownError(
            message, reason=Reason.OUTCOME_UNKNOWN, metadata=_naming(request)
        )
    if maybe_applied:
        return errors.UnavailableError(message, reason=Reason.NO_LEADER)
    return errors.of_reason(
        last.reason,
        message,
        field=last.field,
        metadata=last.metadata,
        retry_after_s=last.retry_after_s,
    )


def _answers(tried: Mapping[str, TqError]) -> str:
    *_, last = tried.values()
    if all(error.message == CANNOT_CONNECT for error in tried.values()):
        addresses = ", ".join([*tried][-ANSWERS_TOLD_MAX:])
        return f"no broker answered at {addresses} (cannot connect); is it running? See TQ_ADDRESS"
    named = []
    for address, error in [*tried.items()][-ANSWERS_TOLD_MAX:]:
        said = error.message if error.reason is last.reason else str(error)
        # gRPC's messages about a connection may have several lines.
        named.append(f"{address}: {' '.join(said.split())}")
    return "; ".join(named)


def _naming(request: Message) -> dict[str, str]:
    request_id = getattr(request, "request_id", "")
    return {"request_id": request_id} if request_id else {}


def _set(request: Message, *, request_id: str) -> None:
    request.request_id = request_id  # type: ignore[attr-defined]  # BY_REQUEST_ID requests have it


def _set_retry_age(request: Message, age_s: float) -> None:
    request.retry_age.FromMicroseconds(int(age_s * 1e6))  # type: ignore[attr-defined]  # as above
