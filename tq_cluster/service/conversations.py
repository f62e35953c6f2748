"""Conversations: many calls over one stream (proto/tq/v1/conversation_service.proto).

Each call is the router's, as if it had come by itself. What is here is the stream: whose turn it is
to be written, what a caller that does not read may hold, and when the stream ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

import grpc.aio

from tq.internal.v1.conversation_pb2 import RawAnswer, RawAnswers, RawCall, RawCalls
from tq.v1 import conversation_service_pb2, errors_pb2
from tq_cluster.beats import next_beat_s
from tq_cluster.core.model.operations import Refused
from tq_cluster.errors import OverloadedError
from tq_cluster.service import errors
from tq_cluster.service.admission import caller_of
from tq_cluster.service.arrivals import read_spread
from tq_cluster.service.call import ConversationMethod, Header, Method
from tq_cluster.service.endings import at_end
from tq_cluster.service.entrance import Arrival, Context
from tq_cluster.service.errors import CallError
from tq_cluster.service.links import metadata_of
from tq_cluster.service.pacing import Pace
from tq_cluster.service.routing import Answered, Router
from tq_cluster.service.shares import Shared
from tq_cluster.service.turn_limit import TurnLimit
from tq_cluster.service.wire import check, field_bytes, parse, rules_of
from tq_common.traceparents import parse_traceparent
from tq_process import connections

if TYPE_CHECKING:
    from tq_cluster.service.server import Servicer

CONVERSATIONS_MAX: Final = 1_024
CALLS_MAX: Final = 256
"""How many calls of one conversation run at a time."""
CALLS_A_TURN: Final = 8
"""How many calls, of all conversations together, begin in one turn of the loop: each takes up to a
millisecond before it lets others go on.
"""
ANSWERS_A_MESSAGE: Final = 64
ANSWERS_BYTES: Final = 256 << 10
"""Answers are written together up to this size; a larger one goes alone."""
AGE_S: Final = 600.0
LAST_CALLS_S: Final = 70.0
"""How long the calls of a conversation of that age may still take: longer than a long poll."""
TIMEOUT_S_MAX: Final = 3_600.0
HELD_BYTES_MAX: Final = 256 << 20
"""While the process holds more memory than this, it holds no conversation.

A message of a stream may have any size, up to what gRPC takes of a call by itself (12 MiB), and
shows it only once all of it is here. Calls by themselves are read a few at a time; a conversation
always waits for its caller's next message. So callers that each send most of a large message
could fill the memory.
"""
GROWTH_BYTES: Final = 8 << 20
"""Once the memory of the process has grown by so much, it is looked at more often than at each beat
for a while: callers can send over a hundred megabytes between two beats.
"""
LOOK_S: Final = 0.01
"""How often it is looked at then."""
CLOSELY_S: Final = 0.3
"""For how long after the last such growth."""
CUT_AFTER_S: Final = 0.5
"""How long a caller may take to take the end of a conversation."""
_ANSWERS: Final = RawAnswers.DESCRIPTOR.fields_by_name["answers"].number
HELD_BYTES_AGAIN: Final = 192 << 20


class Conversations:
    """The conversations of one node."""

    name = conversation_service_pb2.DESCRIPTOR.services_by_name["ConversationService"].full_name

    def __init__(
        self,
        router: Router,
        servicers: Iterable[Servicer],
        held_bytes: Callable[[], int],
    ) -> None:
        """``held_bytes`` returns how much memory the process holds."""
        self.router = router
        self.carried = _methods_in(servicers)
        self._method = ConversationMethod(
            name="Converse",
            request=conversation_service_pb2.ConverseRequest,
            handle=self.converse,
        )
        self.path = f"/{self.name}/{self._method.name}"
        self.request_bytes_max = self._method.policy.request_bytes_max
        self.rules = rules_of(RawCalls.DESCRIPTOR, self._method.policy.limits)
        self.entering = TurnLimit(CALLS_A_TURN)
        self._held_bytes = held_bytes
        self._places = Shared("conversations", CONVERSATIONS_MAX)
        self._open: set[_Conversation] = set()
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None
        self._held_before = held_bytes()
        """What the process held when it had last grown, or the least since."""
        self._closely_until_s = 0.0
        self._short = False
        """Whether the process is short of memory."""
        self._stopping = False

    def methods(self) -> Sequence[ConversationMethod]:
        """Return the methods of the service."""
        return (self._method,)

    @property
    def open(self) -> int:
        """How many are held now, those included that have ended and are still read."""
        return self._places.held

    def refused(self) -> dict[str, int]:
        """How many were refused so far, by limit."""
        return {self._places.name: self._places.refused}

    async def converse(self, context: Context) -> None:
        """Hold one conversation."""
        caller = caller_of(context.peer())
        ends: list[Callable[[], None]] = []

        def gone() -> None:
            for end in ends:
                end()

        at_end(context, gone)
        try:
            await self.router.admit(self._method, self.path, context, ends)
            self._take_place(caller)
            ends.append(partial(self._places.give_back, caller, 1))
        except Exception as error:  # noqa: BLE001  # every failure leaves by the one table
            await self.router.fail(error, self.path, None, context)
        conversation = _Conversation(self, context)
        ends.append(conversation.gone)
        self._open.add(conversation)
        self._watch()
        try:
            await conversation.run()
        except Exception as error:  # noqa: BLE001  # as above
            await self.router.fail(error, self.path, None, context)
        finally:
            self._open.discard(conversation)

    def stop(self) -> None:
        """Take no more calls; each conversation ends once its calls are answered."""
        self._stopping = True
        for conversation in tuple(self._open):
            conversation.stop()

    def _take_place(self, caller: str) -> None:
        if self._stopping or self._short:
            why = "stops" if self._stopping else "is short of memory"
            self._places.refused += 1
            raise errors.overloaded_by(
                self._places.name, f"this node {why}: make each call by itself"
            )
        if not self._places.take(caller, 1):
            raise errors.overloaded_by(
                self._places.name,
                f"this node holds {self._places.held:,} of the {self._places.limit:,} that it"
                " takes, and this caller its share of them: make each call by itself",
                self._places.limit,
            )

    def _watch(self) -> None:
        if self._look is None and (self._open or self._short):
            now_s = self._loop.time()
            closely = now_s < self._closely_until_s
            at_s = now_s + LOOK_S if closely else next_beat_s(now_s)
            self._look = self._loop.call_at(at_s, self._look_at_memory)

    def _look_at_memory(self) -> None:
        self._look = None
        held = self._held_bytes()
        if held > self._held_before + GROWTH_BYTES:
            self._held_before = held
            self._closely_until_s = self._loop.time() + CLOSELY_S
        self._held_before = min(self._held_before, held)
        if held > HELD_BYTES_MAX:
            self._short = True
            for conversation in tuple(self._open):
                conversation.end(errors.outcome_unknown("this node is short of memory", named=True))
        elif held < HELD_BYTES_AGAIN:
            self._short = False
        self._watch()


class _Said(NamedTuple):
    """An answer that waits to be written."""

    part: bytes
    """As it stands in a message."""
    release: Callable[[], None]


class _Conversation:
    """One stream and its calls."""

    def __init__(self, all_of: Conversations, context: Context) -> None:
        self._all = all_of
        self._router = all_of.router
        self._context = context
        self._pace = Pace(context)
        self._metadata = metadata_of(context.invocation_metadata())
        self._peer = context.peer()
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._out: deque[_Said] = deque()
        self._written: deque[Callable[[], None]] = deque()
        """What to call once gRPC has passed on the answers that it was given."""
        self._writing: asyncio.Task[None] | None = None
        self._stopping = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._age = self._loop.call_later(AGE_S, self.stop)
        self._cut: asyncio.TimerHandle | None = None
        self._cutting: asyncio.Future[bool] | None = None

    async def run(self) -> None:
        """Take calls until the caller, or this node, ends the conversation.

        Returns once all are answered; raises what ended it before.
        """
        # Else it would go with the first answer, and a stalled one would leave gRPC in between.
        await self._context.send_initial_metadata(())
        listening = self._loop.create_task(self._listen(), name="conversation")
        try:
            await self._ended
        finally:
            listening.cancel()
            self._age.cancel()
            if not self._ended.done():
                self._ended.cancel()  # the caller has gone
            for running in tuple(self._running.values()):
                running.cancel()
            while self._out:
                self._out.popleft().release()

    def stop(self) -> None:
        """Take no more calls, and end once all are answered."""
        self._stopping = True
        self._age.cancel()
        self._age = self._loop.call_later(LAST_CALLS_S, self.end)
        self._end_if_done()

    def end(self, error: Exception | None = None) -> None:
        """End at once. If the caller does not take the end, its connection is broken off."""
        if self._ended.done():
            return
        self._cut = self._loop.call_later(CUT_AFTER_S, self._cut_off)
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def gone(self) -> None:
        """Release everything: gRPC has nothing more of it."""
        if self._cut is not None:
            self._cut.cancel()
        if self._ended.done() and not self._ended.cancelled():
            self._ended.exception()  # else asyncio logs it if the caller had gone first
        if self._writing is not None:
            self._writing.cancel()
        while self._out:
            self._out.popleft().release()
        while self._written:
            self._written.popleft()()

    def _cut_off(self) -> None:
        """Break off the connection: gRPC sends no end of a stream before its answers are read."""
        host, port = _address_of(self._peer)
        self._cutting = self._loop.run_in_executor(None, connections.shut_down, host, port)

    def _end_if_done(self) -> None:
        if self._stopping and not self._running and not self._out and self._writing is None:
            self.end()

    async def _listen(self) -> None:
        try:
            while True:
                raw: object = await read_spread(self._context.read)
                if not isinstance(raw, bytes):
                    break  # the caller has closed its side
                if len(raw) > self._all.request_bytes_max:
                    raise errors.request_too_large(len(raw), self._all.request_bytes_max)  # noqa: TRY301
                cuts = await check(raw, self._all.rules)
                for call in (await parse(RawCalls, raw, cuts)).calls:
                    self._begin(call)
        except Exception as error:  # noqa: BLE001  # it ends the conversation
            self.end(error)
        else:
            self.stop()

    def _begin(self, call: RawCall) -> None:
        kind = call.WhichOneof("request")
        call_id = call.call_id
        if kind == "cancel":
            given_up = self._running.pop(call_id, None)
            if given_up is not None:
                given_up.cancel()
            return
        if call_id in self._running:
            raise errors.refusal(
                Refused(
                    reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
                    message=f"calls.call_id: a call {call_id} runs already; give each another",
                    field="calls.call_id",
                )
            )
        if kind is None:
            self._refuse(call_id, _no_request())
        elif self._stopping:
            self._refuse(call_id, errors.no_leader("this conversation ends; begin another"))
        elif len(self._running) + len(self._out) >= CALLS_MAX:
            why = f"{CALLS_MAX} calls of this conversation run already; read their answers first"
            self._refuse(call_id, errors.overloaded_by("conversation_calls", why, CALLS_MAX))
        else:
            # What is passed on is no part of the message, which would stay in memory with it.
            request: bytes = getattr(call, kind)
            arrival = Arrival(self._metadata_of(call), _timeout_s(call), self._peer)
            answering = self._loop.create_task(
                self._answer(call_id, kind, arrival, request), name="conversation call"
            )
            self._running[call_id] = answering
            answering.add_done_callback(partial(self._answered, call_id))

    def _refuse(self, call_id: int, error: CallError) -> None:
        if len(self._out) >= 2 * CALLS_MAX:
            raise OverloadedError("the answers of this conversation are not read")
        self._say(call_id, "", Answered(b"", error, _nothing))

    async def _answer(self, call_id: int, kind: str, arrival: Arrival, request: bytes) -> None:
        await self._all.entering.turn()
        method, path = self._all.carried[kind]
        self._say(call_id, kind, await self._router.answer_inside(method, path, arrival, request))

    def _answered(self, call_id: int, answering: asyncio.Task[None]) -> None:
        if self._running.get(call_id) is answering:
            del self._running[call_id]
        if not answering.cancelled() and (error := answering.exception()) is not None:
            self.end(error if isinstance(error, Exception) else None)
        self._end_if_done()

    def _metadata_of(self, call: RawCall) -> Mapping[str, str]:
        own = {}
        if parse_traceparent(call.traceparent):
            own[Header.TRACEPARENT] = call.traceparent
        if call.min_term:
            own[Header.MIN_TERM] = str(call.min_term)
        return {**self._metadata, **own} if own else self._metadata

    def _say(self, call_id: int, kind: str, answered: Answered) -> None:
        if self._ended.done():
            answered.release()
            return
        leader, term = self._router.leader()
        answer = RawAnswer(call_id=call_id, leader=leader, term=term)
        if answered.failure is None:
            setattr(answer, kind, answered.reply)
        else:
            failure = answered.failure
            answer.failure.code = failure.code.value[0]
            answer.failure.message = failure.message
            answer.failure.details = failure.details
        self._out.append(_Said(field_bytes(_ANSWERS, answer.SerializeToString()), answered.release))
        if self._writing is None:
            self._writing = self._loop.create_task(self._write(), name="conversation answers")

    def _next_message(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._out and len(parts) < ANSWERS_A_MESSAGE:
            size += len(self._out[0].part)
            if parts and size > ANSWERS_BYTES:
                break
            part, release = self._out.popleft()
            parts.append(part)
            self._written.append(release)
        return b"".join(parts)

    async def _write(self) -> None:
        """Write answers, those that are ready meanwhile in one message."""
        try:
            while self._out:
                await self._pace.write(self._next_message())
                while self._written:
                    self._written.popleft()()
        except OverloadedError as error:
            self.end(error)
        except grpc.aio.BaseError:
            pass  # the caller has gone
        finally:
            self._writing = None
            self._end_if_done()


def _methods_in(servicers: Iterable[Servicer]) -> Mapping[str, tuple[Method, str]]:
    """Return the methods that a conversation carries, and their paths, by their fields' names."""
    kinds = {field.name for field in RawCall.DESCRIPTOR.oneofs_by_name["request"].fields}
    return {
        kind: (method, f"/{servicer.name}/{method.name}")
        for servicer in servicers
        for method in servicer.methods()
        if isinstance(method, Method) and (kind := _kind_of(method.name)) in kinds
    }


def _address_of(peer: str) -> tuple[str, int]:
    """Return the address and port in gRPC's name of a peer."""
    host, _, port = unquote(peer).rpartition(":")
    return host.partition(":")[2].strip("[]"), int(port)


def _kind_of(method: str) -> str:
    """Return the name of a method's field: GetTask is get_task."""
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in method)[1:]


def _timeout_s(call: RawCall) -> float | None:
    if not call.HasField("timeout"):
        return None
    return max(0.0, min(call.timeout.seconds + call.timeout.nanos / 1e9, TIMEOUT_S_MAX))


def _no_request() -> CallError:
    return errors.refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
            message="calls.request: the call carries no request",
            field="calls.request",
        )
    )


def _nothing() -> None:
    pass
