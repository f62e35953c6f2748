"""One stream to a broker that carries many calls (proto/tq/v1/conversation_service.proto).

To the caller of a call nothing is different: it has the same deadline, answer and errors as by
itself, and can be cancelled alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import Message
from grpc import aio

from tq.v1.conversation_service_pb2 import (
    CallFailure,
    ConverseAnswer,
    ConverseCall,
    ConverseRequest,
    ConverseResponse,
)
from tq_client import errors

if TYPE_CHECKING:
    from typing import TypeAlias

    Stream: TypeAlias = aio.StreamStreamCall[ConverseRequest, ConverseResponse]

CALLS_MAX: Final = 256
"""How many calls a broker runs of one conversation at a time."""
CALLS_A_MESSAGE: Final = 64
REQUEST_BYTES_MAX: Final = 64 << 10
"""A larger request is sent by itself, so that it does not hold up others."""
MESSAGE_BYTES: Final = 192 << 10
"""Requests are sent together up to this size; a broker takes 256 KiB."""
AGE_S: Final = 240.0
"""After this a conversation takes no more calls; a broker ends one after ten minutes."""
REFUSED_S: Final = 10.0
"""How long a broker that has no room for a conversation is sent each call by itself."""
UNKNOWN_S: Final = 60.0
"""The same for a broker that is too old for conversations."""

CLOSE_S: Final = 0.5
"""How long a broker may take to end a conversation in order."""
_ENDED: Final = (
    aio.AioRpcError,
    aio.BaseError,
    asyncio.InvalidStateError,
    asyncio.CancelledError,
)
"""What gRPC raises for a stream that has ended."""
_DETAILS_KEY: Final = "grpc-status-details-bin"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class NotTakenError(Exception):
    """The broker takes no conversation: nothing of it was applied."""


class Asked:
    """A call that was sent, or is about to be; awaiting it returns the reply.

    Raises AioRpcError, or `NotTakenError`: then the call can be made by itself.
    """

    def __init__(self, conversation: Conversation, call_id: int, kind: str) -> None:
        self.call_id = call_id
        self.kind = kind
        self.leader = ""
        self.term = 0
        """Who leads and in which term, as the answer says."""
        self.timer: asyncio.TimerHandle | None = None
        self.reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._conversation = conversation

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self.reply.__await__())
        finally:
            self._conversation.over(self)

    def cancel(self) -> bool:
        """Stop waiting; the broker stops working on it."""
        return self.reply.cancel()


class Conversation:
    """A stream and its calls. It holds no reference to its channel, which ends it."""

    def __init__(self, stream: Stream) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._asked: dict[int, Asked] = {}
        self._out: deque[ConverseCall] = deque()
        self._next_id = 1
        self._writing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._finishing = False
        self._began_s = self._loop.time()
        self._heard_s = -math.inf
        """When the broker last answered anything."""
        self._silent = False
        self.ended = False
        self.barred_until_s = 0.0
        """By the loop's clock: until then no other is to be begun."""
        self._reading = self._loop.create_task(self._read(), name="conversation")

    @property
    def old(self) -> bool:
        """Whether another is to be begun for new calls."""
        return self.ended or self._silent or self._loop.time() - self._began_s > AGE_S

    @property
    def full(self) -> bool:
        """Whether as many calls run as a broker takes."""
        return len(self._asked) >= CALLS_MAX or len(self._out) >= CALLS_MAX

    def ask(
        self, kind: str, request: Message, timeout_s: float, traceparent: str, min_term: int
    ) -> Asked:
        """Send a call; ``kind`` names its field."""
        call_id = self._next_id
        self._next_id += 1
        call = ConverseCall(call_id=call_id, traceparent=traceparent, min_term=min_term)
        call.timeout.FromMicroseconds(max(0, int(timeout_s * 1e6)))
        getattr(call, kind).CopyFrom(request)
        asked = self._asked[call_id] = Asked(self, call_id, kind)
        asked.timer = self._loop.call_later(timeout_s, self._expire, asked, self._loop.time())
        self._send(call)
        return asked

    def over(self, asked: Asked) -> None:
        """Note that a call has its answer, or that its caller has stopped waiting."""
        if asked.timer is not None:
            asked.timer.cancel()
        if self._asked.pop(asked.call_id, None) is not None and not self.ended:
            unsent = next((call for call in self._out if call.call_id == asked.call_id), None)
            if unsent is not None:
                self._out.remove(unsent)
            else:
                self._send(ConverseCall(call_id=asked.call_id, cancel=True))
        self._finish_if_done()

    def _expire(self, asked: Asked, asked_s: float) -> None:
        # The broker may be slow, or the stream be broken without an end: others try another.
        self._silent |= self._heard_s < asked_s
        if not asked.reply.done():
            asked.reply.set_exception(
                _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())
            )

    async def close(self) -> None:
        """Give up every call, and return once gRPC has nothing more of the stream.

        A stream that is only cancelled lives on in gRPC for a moment, in which neither its event
        loop may be closed nor its process fork. So it ends in order, if the broker answers.
        """
        for asked in tuple(self._asked.values()):
            asked.reply.cancel()
            self.over(asked)
        self.finish()
        await asyncio.wait([self._reading], timeout=CLOSE_S)
        if not self._reading.done():
            self._stream.cancel()
            await asyncio.wait([self._reading, *_ending()], timeout=CLOSE_S)

    def cancel(self) -> None:
        """End at once; any thread may call it."""
        with suppress(RuntimeError):  # the loop has ended, and with it the stream
            self._loop.call_soon_threadsafe(self._stream.cancel)

    def finish(self) -> None:
        """Take no more calls, and end once all are answered."""
        self._finishing = True
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        done = not (self._asked or self._out or self.ended) and self._writing is None
        if self._finishing and done and self._closing is None:
            self._closing = self._loop.create_task(self._close())

    async def _close(self) -> None:
        try:
            await self._stream.done_writing()
        except _ENDED:
            return

    def _send(self, call: ConverseCall) -> None:
        self._out.append(call)
        if self._writing is None:
            # A task of its own: gRPC ends a stream if a writer of it is cancelled.
            self._writing = self._loop.create_task(self._write(), name="conversation calls")

    async def _write(self) -> None:
        """Send calls, those that come meanwhile in one message."""
        try:
            while self._out and not self.ended:
                message, size = ConverseRequest(), 0
                while self._out and len(message.calls) < CALLS_A_MESSAGE:
                    size += self._out[0].ByteSize()
                    if message.calls and size > MESSAGE_BYTES:
                        break
                    message.calls.append(self._out.popleft())
                await self._stream.write(message)
        except _ENDED:
            pass  # as `_read` finds, too
        finally:
            self._writing = None
            self._finish_if_done()

    async def _read(self) -> None:
        why, closed = "", False
        try:
            while True:
                message = await self._stream.read()
                if not isinstance(message, ConverseResponse):
                    break
                self._heard_s = self._loop.time()
                for answer in message.answers:
                    self._answered(answer)
        except aio.AioRpcError as error:
            why = f": {error.code().name}: {error.details()}"
            self._bar(error)
        except asyncio.CancelledError:
            closed = True  # its channel was closed, or this program ends
        except Exception as error:  # noqa: BLE001  # no call may wait for an answer any more
            why = f": {error}"
        self._end(f"the conversation has ended{why}", closed=closed)

    def _bar(self, error: aio.AioRpcError) -> None:
        """Begin no other for a while if the broker has refused this one, unread."""
        if self._heard_s > -math.inf:
            return
        said = errors.of_rpc(error)
        refused = said.metadata.get("limit_name") == "conversations" or isinstance(
            said, errors.AccessDeniedError
        )
        if refused or error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self.barred_until_s = self._loop.time() + (REFUSED_S if refused else UNKNOWN_S)

    def _answered(self, answer: ConverseAnswer) -> None:
        asked = self._asked.pop(answer.call_id, None)
        if asked is None or asked.reply.done():
            return  # its caller has stopped waiting
        asked.leader, asked.term = answer.leader, answer.term
        if answer.HasField("failure"):
            asked.reply.set_exception(_failure(answer.failure, answer.leader, answer.term))
        else:
            asked.reply.set_result(getattr(answer, asked.kind))

    def _end(self, why: str, *, closed: bool) -> None:
        self.ended = True
        self._out.clear()
        left, self._asked = self._asked, {}
        for asked in left.values():
            if asked.reply.done():
                continue
            if self.barred_until_s:
                asked.reply.set_exception(NotTakenError())
            elif closed:
                asked.reply.cancel()
            else:
                # However the stream ended, the call may have been applied.
                asked.reply.set_exception(_error(grpc.StatusCode.UNAVAILABLE, why, ()))


def _ending() -> Iterable[asyncio.Task[Any]]:
    """Return the tasks in which gRPC waits for the ends of its calls.

    The name is one inside grpcio; if it changes, there are none.
    """
    return [
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__qualname__", "").endswith("_handle_status_once_received")
    ]


def _failure(failure: CallFailure, leader: str, term: int) -> aio.AioRpcError:
    trailing: list[tuple[str, str | bytes]] = [
        ("tq-term", str(term)),
        (_DETAILS_KEY, failure.details),
    ]
    if leader:
        trailing.append(("tq-leader", leader))
    code = _CODES.get(failure.code, grpc.StatusCode.UNKNOWN)
    return _error(code, failure.message, trailing)


def _error(
    code: grpc.StatusCode, details: str, trailing: Iterable[tuple[str, str | bytes]]
) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing), details)
