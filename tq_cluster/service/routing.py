"""The path of every call: admitted, then answered here or sent to the leader until its deadline.

Requests stay bytes on this path: a node that only forwards a call does not parse it, and no request
is parsed before it is known to be within its limits.
"""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from google.protobuf.message import Message

from tq_cluster.errors import (
    FatalError,
    NotAppliedError,
    NotLeaderError,
    OutcomeUnknownError,
)
from tq_cluster.service import errors
from tq_cluster.service.admission import Admission, Held
from tq_cluster.service.aimd_window import ShedError
from tq_cluster.service.authorization import Authorizer
from tq_cluster.service.call import (
    Call,
    ConversationMethod,
    Header,
    Method,
    StreamMethod,
    Undo,
)
from tq_cluster.service.endings import at_end
from tq_cluster.service.entrance import Arrival, Context, Entrance
from tq_cluster.service.errors import DETAILS_KEY, CallError
from tq_cluster.service.forwarding import BrokenError, Forwarder, NotTakenError
from tq_cluster.service.needs import Needs
from tq_cluster.service.pacing import Pace
from tq_cluster.service.peer_authentication import digest_of
from tq_cluster.service.policy import Repeat
from tq_cluster.service.roles import KnownLeader, Roles
from tq_cluster.service.turn_limit import TurnLimit
from tq_cluster.service.wire import parse
from tq_common.backoff import Pauses

if TYPE_CHECKING:
    from tq_cluster.telemetry.spans import Tracing

_logger = logging.getLogger(__name__)

PAUSE_FIRST_S = 0.01
PAUSE_MAX_S = 0.2
"""Between attempts at the same leader, doubling, half of it random; a role change ends it."""

BROKEN_MAX = 4
"""How many leaders may break while they serve a call before it is no longer sent to the next one.
Long polls are not counted: leaders break while those wait, and not because of them.
"""
HEAVY_BYTES = 16 << 10
BROKEN_OVER_HEAVY_MAX = 1
"""The same for a larger call, which may be the reason why the leader broke."""
UNDO_S = 5.0
NOT_A_MEMBER = "this node is not a member of its peers' cluster; ask another"
ANSWERS_A_TURN = 40
"""Each takes a tenth of a millisecond."""
ANSWER_KEPT_BYTES = 64 << 10
LARGE_REPLIES_KEPT = 256
LARGE_REPLY_REQUEST_BYTES_MAX = 512


@dataclass(slots=True)
class _Attempts:
    """The attempts so far."""

    pauses: Pauses
    maybe_applied: str = ""
    """Why an attempt may have been applied; empty while certainly none was."""
    last: str = "no leader is known"
    broken: int = 0
    """How many leaders broke while they had the call."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a call in a conversation is answered with."""

    reply: bytes
    failure: CallError | None
    """None if there is a reply."""
    release: Callable[[], None]
    """To be called once the caller has it, or is gone."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is within its limits."""

    raw: bytes
    held: Held


class Router:
    """Takes every call of the API."""

    def __init__(
        self,
        *,
        roles: Roles,
        forwarder: Forwarder,
        entrance: Entrance,
        admission: Admission,
        cluster_version: Callable[[], int],
        authorizer: Authorizer | None = None,
        tracing: Tracing | None = None,
        jitter: random.Random,
        fatal: Callable[[BaseException], None],
    ) -> None:
        """``authorizer``: None allows everything. ``fatal`` ends the process.

        ``cluster_version``: the version in this node's state, 0 while it has none.
        """
        self._tracing = tracing
        self._roles = roles
        self._forwarder = forwarder
        self._entrance = entrance
        self._admission = admission
        self._large: OrderedDict[tuple[str, int, bytes], int] = OrderedDict()
        """Sizes of replies to reads that did not fit, to refuse them without making them."""
        self._authorizer = authorizer
        self._needs = Needs(cluster_version)
        self._jitter = jitter
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._serialized_last: tuple[Message, bytes] | None = None
        self._draining = False
        self._undoing: set[asyncio.Task[None]] = set()
        self.leaving = TurnLimit(ANSWERS_A_TURN)
        """The last step of every answer."""

    def drain(self) -> None:
        """Fail at once every call that waits for a leader or for its answer."""
        self._draining = True
        self._forwarder.abandon_all()
        self._roles.nudge()

    async def answer(
        self, method: Method, path: str, context: Context, *, from_nodes: bool = False
    ) -> bytes:
        """Answer one call; its trailing metadata says who leads.

        ``from_nodes``: it came by the listener that only nodes may call.
        """
        call: Call | None = None
        held: Held | None = None
        try:
            call, held = self._entrance.admit(
                method, path, Arrival.of(context), from_nodes=from_nodes
            )
            at_end(context, partial(self._admission.end, held))
            reply = await self._handle(method, await self._read(method, call, held, context), call)
            await self.leaving.turn()
        except Exception as error:  # noqa: BLE001  # every failure leaves by the one table
            await self.fail(error, path, call, context)
        else:
            context.set_trailing_metadata(tuple(self._trailing(call, call.request_id)))
            return reply
        finally:
            if held is not None:
                self._admission.answered(held)

    async def answer_inside(
        self, method: Method, path: str, arrival: Arrival, raw: bytes
    ) -> Answered:
        """Answer one call of a conversation, as ``answer`` would."""
        call: Call | None = None
        held: Held | None = None
        reply, failure = b"", None
        try:
            try:
                call, held = self._entrance.admit(method, path, arrival)
                await self._admission.take(held, method.policy, raw)
                reply = await self._handle(method, Request(raw, held), call)
                self._admission.answered(held)
                await self.leaving.turn()
            except Exception as error:  # noqa: BLE001  # as above
                failure, _ = await self._failed(error, path, call)
        except asyncio.CancelledError:
            if held is not None:
                self._admission.end(held)
            raise
        release = partial(self._admission.end, held) if held is not None else _nothing
        return Answered(reply, failure, release)

    async def admit(
        self,
        method: ConversationMethod,
        path: str,
        context: Context,
        ends: list[Callable[[], None]],
    ) -> None:
        """Admit a conversation as a call, which it is until it ends; CallError if it may not be.

        ``ends`` receives what releases it.
        """
        arrival = Arrival.of(context)
        call, held = self._entrance.admit(method, path, arrival)
        ends.append(partial(self._admission.end, held))
        if Header.HOP in arrival.metadata:
            raise errors.unauthenticated("nodes forward each call by itself")
        if self._authorizer is not None:
            await self._authorizer.check(method.policy, method.request(), call)

    def leader(self) -> tuple[str, int]:
        """Return the leader's address, empty if it is not known, and the term."""
        leader = self._roles.leader()
        return leader.address if leader is not None else "", self._roles.term

    async def stream(self, method: StreamMethod, path: str, context: Context) -> None:
        """Answer one call with a stream, at this node; its trailing metadata says who leads."""
        call: Call | None = None
        try:
            call, held = self._entrance.admit(method, path, Arrival.of(context))
            at_end(context, partial(self._admission.end, held))
            asked = await self._read(method, call, held, context)
            request = await parse(method.request, asked.raw, held.cuts)
            self._admission.answered(held)
            if not self._needs.met(method.policy):
                await self._needs.check(method.policy, request)
            if self._authorizer is not None:
                await self._authorizer.check(method.policy, request, call)
            async with aclosing(method.handle(request, call)) as parts:
                pace = Pace(context)
                async for part in parts:
                    await pace.write(part.SerializeToString())
        except Exception as error:  # noqa: BLE001  # as above
            await self.fail(error, path, call, context)
        else:
            context.set_trailing_metadata(tuple(self._trailing(call, call.request_id)))

    async def _read(
        self, method: Method | StreamMethod, call: Call, held: Held, context: Context
    ) -> Request:
        raw = await self._admission.read(
            held, method.policy, context.read, call.answer_by_s, context.peer()
        )
        if call.digest and await digest_of(raw) != call.digest:
            raise errors.unauthenticated(f"this is not the request that {call.hop} has sent")
        return Request(raw, held)

    async def fail(
        self, error: Exception, path: str, call: Call | None, context: Context
    ) -> NoReturn:
        """Answer a call that failed; ``call`` is None if it was not admitted."""
        if call is None:
            at_end(context)
        failed, request_id = await self._failed(error, path, call)
        trailing = [*self._trailing(call, request_id), (DETAILS_KEY, failed.details)]
        await context.abort(failed.code, failed.message, tuple(trailing))

    async def _failed(
        self, error: Exception, path: str, call: Call | None
    ) -> tuple[CallError, str]:
        """Return the error for the caller, and the id under which the log has it."""
        failed = errors.failure(error)
        request_id = call.request_id if call is not None else ""
        if isinstance(error, FatalError):
            # A damaged row, for example: the other nodes' rows are intact, so they can answer.
            self._fatal(error)
        if failed is None:
            request_id = request_id or uuid.uuid4().hex
            _logger.error("call failed", extra={"path": path, "call": request_id}, exc_info=error)
            failed = errors.internal(request_id)
        await self.leaving.turn()
        _let_go(error)
        return failed, request_id

    async def _handle(self, method: Method, request: Request, call: Call) -> bytes:
        if self._tracing is None:
            return await self._resolve(method, request, call)
        with self._tracing.call(
            method.name, call.path, call.caller.traceparent, errors.reason_name
        ) as traceparent:
            caller = replace(call.caller, traceparent=traceparent)
            return await self._resolve(method, request, replace(call, caller=caller))

    async def _resolve(self, method: Method, request: Request, call: Call) -> bytes:
        raw = request.raw
        self._fits_as_before(method, raw, call, request.held)
        if not self._needs.met(method.policy):
            message = await parse(method.request, raw, request.held.cuts)
            await self._needs.check(method.policy, message)
        if method.answered_here(raw):
            return await self._serve(method, request, call)
        attempts = _Attempts(Pauses(PAUSE_FIRST_S, PAUSE_MAX_S, share_min=0.5, draw=self._jitter))
        while True:
            version = self._roles.version
            leader = self._roles.leader(call.min_term)
            here = leader is not None and leader.here
            if not here and call.no_forward:
                raise errors.not_leader(leader.address if leader is not None else "")
            try:
                if leader is not None:
                    if leader.here:
                        current = method.aged(raw, self._loop.time() - call.arrived_s)
                        return await self._serve(method, replace(request, raw=current), call)
                    reply = await self._forwarder.send(leader, method, raw, call)
                    try:
                        self._hold_reply(method, request, reply, call)
                    except CallError:
                        if method.undo is not None:
                            self._undo(leader, method.undo, method.undo.request(raw, reply), call)
                        raise
                    return reply
            except ShedError as error:
                if attempts.maybe_applied:
                    raise self._given_up(method, attempts, str(error), raw) from None
                raise errors.shed(str(error)) from None
            except (NotLeaderError, NotAppliedError, NotTakenError) as error:
                attempts.last = str(error)
            except (OutcomeUnknownError, BrokenError) as error:
                attempts.broken += 1
                attempts.last = str(error)
                if method.repeat is not Repeat.READ:
                    attempts.maybe_applied = str(error)
                if call.no_forward or not method.repeatable(raw):
                    raise errors.outcome_unknown(str(error), named=method.repeatable(raw)) from None
                self._check_broken(method, attempts, raw)
            await self._pause(method, call, attempts, version, raw, known=leader is not None)

    def _undo(self, leader: KnownLeader, undo: Undo, raw: bytes, call: Call) -> None:
        """Have the leader release what it granted to a caller that was not sent the reply.

        If that fails, the leases expire by themselves.
        """
        until_s = self._loop.time() + UNDO_S
        call = replace(call, path=undo.path, answer_by_s=until_s, cut_s=until_s)

        async def send() -> None:
            try:
                await self._forwarder.send(leader, undo.method, raw, call)
            except (CallError, NotTakenError, BrokenError) as error:
                _logger.info("not given back", extra={"path": call.path, "reason": str(error)})

        undoing = self._loop.create_task(send(), name="undo")
        self._undoing.add(undoing)
        undoing.add_done_callback(self._undoing.discard)

    def _check_broken(self, method: Method, attempts: _Attempts, raw: bytes) -> None:
        """Raise if so many leaders broke during a call that it may be the reason."""
        most = BROKEN_OVER_HEAVY_MAX if len(raw) > HEAVY_BYTES else BROKEN_MAX
        if method.policy.long_poll or attempts.broken <= most:
            return
        why = (
            f"{attempts.broken} leaders broke while they had this call of {len(raw):,} bytes, and"
            f" after {most} it is sent to no other; at last: {attempts.last}"
        )
        limit = {"limit": str(most), "actual": str(attempts.broken)}
        if attempts.maybe_applied:
            raise errors.outcome_unknown(why, named=False, metadata=limit)
        raise errors.too_heavy(why, limit)

    def _fits_as_before(self, method: Method, raw: bytes, call: Call, held: Held) -> None:
        """Refuse a read, before it is made, if its reply did not fit before and does not now."""
        size = self._large.get((call.path, call.caller.namespace, raw)) if self._large else None
        if size is not None and method.repeat is Repeat.READ:
            self._admission.check_reply(held, size)

    def _hold_reply(self, method: Method, request: Request, reply: bytes, call: Call) -> None:
        """Count a reply until its caller has read it; CallError for one that does not fit."""
        # Calls of other methods have changed something: they are answered; the replies are small.
        key = call.path, call.caller.namespace, request.raw
        try:
            self._admission.reply(request.held, len(reply), must=not method.replies_large)
        except CallError:
            if method.repeat is Repeat.READ and len(request.raw) <= LARGE_REPLY_REQUEST_BYTES_MAX:
                self._large[key] = len(reply)
                if len(self._large) > LARGE_REPLIES_KEPT:
                    self._large.popitem(last=False)
            raise
        if self._large:
            self._large.pop(key, None)

    async def _serve(self, method: Method, request: Request, call: Call) -> bytes:
        message = await parse(method.request, request.raw, request.held.cuts)
        try:
            async with asyncio.timeout_at(call.cut_s):
                if self._authorizer is not None:
                    await self._authorizer.check(method.policy, message, call)
                reply = await method.handle(message, call)
        except TimeoutError:
            if method.repeat is Repeat.READ:
                raise errors.no_leader("no majority answered in time") from None
            raise OutcomeUnknownError("no majority answered in time") from None
        answer = self._serialized(reply)
        try:
            self._hold_reply(method, request, answer, call)
        except CallError:
            if method.unheard is not None:
                method.unheard(message, reply, call)
            raise
        return answer

    def _serialized(self, reply: Message) -> bytes:
        """Return a reply's bytes, made once for all calls that share it in this turn."""
        if self._serialized_last is not None and self._serialized_last[0] is reply:
            return self._serialized_last[1]
        answer = reply.SerializeToString()
        if len(answer) >= ANSWER_KEPT_BYTES:
            if self._serialized_last is None:
                self._loop.call_soon(self._forget_serialized)
            self._serialized_last = reply, answer
        return answer

    def _forget_serialized(self) -> None:
        self._serialized_last = None

    async def _pause(
        self,
        method: Method,
        call: Call,
        attempts: _Attempts,
        version: int,
        raw: bytes,
        *,
        known: bool,
    ) -> None:
        """Wait for another leader, or for a moment if one is known that did not answer."""
        if self._draining:
            raise self._given_up(method, attempts, "this node is stopping", raw)
        if self._roles.is_stranger:
            raise self._given_up(method, attempts, NOT_A_MEMBER, raw)
        left_s = call.answer_by_s - self._loop.time()
        if left_s <= 0:
            raise self._given_up(method, attempts, attempts.last, raw)
        pause_s = left_s
        if known:
            pause_s = min(left_s, attempts.pauses.next_s())
        await self._roles.changed(version, pause_s)

    def _given_up(self, method: Method, attempts: _Attempts, why: str, raw: bytes) -> CallError:
        if attempts.maybe_applied:
            then = f"; then: {why}" if why != attempts.maybe_applied else ""
            return errors.outcome_unknown(
                attempts.maybe_applied + then, named=method.repeatable(raw)
            )
        return errors.no_leader(f"{method.name} was answered by no leader: {why}")

    def _trailing(self, call: Call | None, request_id: str) -> list[tuple[str, str | bytes]]:
        leader = self._roles.leader()
        trailing: list[tuple[str, str | bytes]] = [(Header.TERM, str(self._roles.term))]
        if leader is not None:
            trailing.append((Header.LEADER, leader.address))
        if request_id:
            trailing.append((Header.REQUEST_ID, request_id))
        if call is not None and call.hop:
            served_ms = int((self._loop.time() - call.arrived_s) * 1000)
            trailing.append((Header.SERVED_MS, str(served_ms)))
        return trailing


def _nothing() -> None:
    pass


def _let_go(error: BaseException) -> None:
    """Free the objects held by the frames that ``error`` came through.

    Among them is a refused reply of megabytes, and gRPC's own exception refers to ``error`` in a
    cycle: all of it would stay until the garbage collector has collected its oldest generation.
    """
    met: BaseException | None = error
    while met is not None:
        traceback.clear_frames(met.__traceback__)
        met = met.__context__
