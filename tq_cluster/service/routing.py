"""The way of every call: admitted, answered here or sent to the leader, again until its deadline.

Requests are bytes on this way: a node that only forwards a call does not parse it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import grpc
import grpc.aio

from tq_cluster.core.operations import Caller
from tq_cluster.core.types import Principal
from tq_cluster.errors import (
    FatalError,
    NotAppliedError,
    NotLeaderError,
    OutcomeUnknownError,
)
from tq_cluster.service import errors
from tq_cluster.service.authorization import Authenticate, authenticate
from tq_cluster.service.call import (
    Call,
    Header,
    Method,
    Repeat,
    StreamMethod,
    certain_s,
    margin_s,
    number_in,
)
from tq_cluster.service.errors import DETAILS_KEY, CallError
from tq_cluster.service.forwarding import BrokenError, Forwarder, NotTakenError
from tq_cluster.service.links import metadata_of
from tq_cluster.service.pacing import Pace
from tq_cluster.service.proof import PeerProof
from tq_cluster.service.roles import Roles
from tq_cluster.service.window import ShedError

if TYPE_CHECKING:
    from tq_cluster.telemetry.spans import Tracing

_logger = logging.getLogger(__name__)

PAUSE_FIRST_S = 0.01
PAUSE_MAX_S = 0.2
"""Between attempts at the same leader, doubling, half of it random; a role change ends it."""

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(slots=True)
class _Attempts:
    """How it went so far."""

    pause_s: float = PAUSE_FIRST_S
    maybe_applied: str = ""
    """Why it is not known whether an attempt was applied; empty while all certainly were not."""
    last: str = "no leader is known"


class Router:
    """Takes every call of the API."""

    def __init__(
        self,
        *,
        roles: Roles,
        forwarder: Forwarder,
        proof: PeerProof,
        calls_max: int,
        authenticate: Authenticate = authenticate,
        tracing: Tracing | None = None,
        jitter: random.Random,
        fatal: Callable[[BaseException], None],
    ) -> None:
        """``fatal`` ends the process."""
        self._tracing = tracing
        self._roles = roles
        self._forwarder = forwarder
        self._proof = proof
        self._calls_max = calls_max
        self._authenticate = authenticate
        self._jitter = jitter
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._draining = False
        self.calls = 0
        """Calls held now."""

    def drain(self) -> None:
        """Answer at once, with a failure, every call that waits for a leader or for its answer."""
        self._draining = True
        self._forwarder.abandon_all()
        self._roles.nudge()

    async def answer(
        self, method: Method, path: str, raw: bytes, context: Context, *, from_nodes: bool = False
    ) -> bytes:
        """Answer one call; its trailing metadata says who leads.

        ``from_nodes``: it came where nodes alone may call.
        """
        self.calls += 1
        call: Call | None = None
        try:
            call = self._admit(method, path, context)
            if from_nodes:
                self._check_sender(path, call, context)
            if self._tracing is None:
                reply = await self._resolve(method, raw, call)
            else:
                reply = await self._traced(self._tracing, method, raw, call)
        except Exception as error:  # noqa: BLE001  # every failure leaves by the one table
            await self._fail(error, path, call, context)
        else:
            context.set_trailing_metadata(tuple(self._trailing(call, call.request_id)))
            return reply
        finally:
            self.calls -= 1

    async def stream(self, method: StreamMethod, path: str, raw: bytes, context: Context) -> None:
        """Answer one call with a stream, at this node; its trailing metadata says who leads."""
        self.calls += 1
        call: Call | None = None
        try:
            call = self._admit(method, path, context)
            async with aclosing(method.handle(method.request.FromString(raw), call)) as parts:
                pace = Pace(context)
                async for part in parts:
                    await pace.write(part.SerializeToString())
        except Exception as error:  # noqa: BLE001  # as above
            await self._fail(error, path, call, context)
        else:
            context.set_trailing_metadata(tuple(self._trailing(call, call.request_id)))
        finally:
            self.calls -= 1

    async def _fail(
        self, error: Exception, path: str, call: Call | None, context: Context
    ) -> NoReturn:
        failed = errors.failure(error)
        request_id = call.request_id if call is not None else ""
        if isinstance(error, FatalError):
            # A damaged row, for one: the other nodes' are whole, and can answer.
            self._fatal(error)
        if failed is None:
            request_id = request_id or uuid.uuid4().hex
            _logger.error("call failed", extra={"path": path, "call": request_id}, exc_info=error)
            failed = errors.internal(request_id)
        trailing = [*self._trailing(call, request_id), (DETAILS_KEY, failed.details)]
        await context.abort(failed.code, failed.message, tuple(trailing))

    def _admit(self, method: Method | StreamMethod, path: str, context: Context) -> Call:
        if self.calls > self._calls_max:
            raise errors.overloaded(self._calls_max)
        metadata = metadata_of(context.invocation_metadata())
        now_s = self._loop.time()
        # The published types do not say that it is None for a caller that gave no deadline.
        remaining_s: float | None = context.time_remaining()
        left_s = method.default_deadline_s if remaining_s is None else certain_s(remaining_s)
        margin = margin_s(left_s)
        hop = metadata.get(Header.HOP, "")
        elapsed_s = number_in(metadata, Header.ELAPSED_MS) / 1000 if hop else 0.0
        request_id = metadata.get(Header.REQUEST_ID, "")
        return Call(
            path=path,
            caller=Caller(
                principal=self._principal(path, hop, request_id, metadata),
                traceparent=metadata.get(Header.TRACEPARENT, ""),
            ),
            received_s=now_s - elapsed_s,
            arrived_s=now_s,
            answer_by_s=now_s + left_s - margin,
            cut_s=now_s + left_s - margin / 2,
            hop=hop,
            no_forward=Header.NO_FORWARD in metadata,
            min_term=number_in(metadata, Header.MIN_TERM),
            request_id=request_id,
            client=metadata.get(Header.CLIENT, ""),
        )

    def _check_sender(self, path: str, call: Call, context: Context) -> None:
        """Refuse a call that no node of this cluster has sent."""
        proof = metadata_of(context.invocation_metadata()).get(Header.PEER_PROOF, "")
        if not call.hop or not self._proof.holds(
            proof, call.caller.principal, path, call.request_id
        ):
            raise errors.unauthenticated("this port is for the cluster's own nodes: use the API's")

    def _principal(
        self, path: str, hop: str, request_id: str, metadata: Mapping[str, str]
    ) -> Principal:
        asserted = metadata.get(Header.PRINCIPAL, "")
        if not asserted:
            return self._authenticate(metadata) if not hop else Principal("")
        proof = metadata.get(Header.PEER_PROOF, "")
        if not self._proof.holds(proof, asserted, path, request_id):
            raise errors.unauthenticated(f"only nodes may say that a call is {asserted!r}'s")
        return Principal(asserted)

    async def _traced(self, tracing: Tracing, method: Method, raw: bytes, call: Call) -> bytes:
        with tracing.call(
            method.name, call.path, call.caller.traceparent, errors.reason_name
        ) as traceparent:
            caller = replace(call.caller, traceparent=traceparent)
            return await self._resolve(method, raw, replace(call, caller=caller))

    async def _resolve(self, method: Method, raw: bytes, call: Call) -> bytes:
        if method.answered_here(raw):
            return await self._serve(method, raw, call)
        attempts = _Attempts()
        while True:
            version = self._roles.version
            leader = self._roles.leader(call.min_term)
            here = leader is not None and leader.here
            if not here and (call.hop or call.no_forward):
                raise errors.not_leader(leader.address if leader is not None else "")
            try:
                if leader is not None:
                    if leader.here:
                        current = method.aged(raw, self._loop.time() - call.arrived_s)
                        return await self._serve(method, current, call)
                    return await self._forwarder.send(leader, method, raw, call)
            except ShedError as error:
                if attempts.maybe_applied:
                    raise self._given_up(method, attempts, str(error)) from None
                raise errors.shed(str(error)) from None
            except (NotLeaderError, NotAppliedError, NotTakenError) as error:
                attempts.last = str(error)
            except (OutcomeUnknownError, BrokenError) as error:
                if method.repeat is not Repeat.READ:
                    attempts.maybe_applied = str(error)
                if call.hop or call.no_forward or not method.repeatable(raw):
                    raise errors.outcome_unknown(str(error)) from None
                attempts.last = str(error)
            await self._pause(method, call, attempts, version, known=leader is not None)

    async def _serve(self, method: Method, raw: bytes, call: Call) -> bytes:
        request = method.request.FromString(raw)
        try:
            async with asyncio.timeout_at(call.cut_s):
                reply = await method.handle(request, call)
        except TimeoutError:
            if method.repeat is Repeat.READ:
                raise errors.no_leader("no majority answered in time") from None
            raise OutcomeUnknownError("no majority answered in time") from None
        return reply.SerializeToString()

    async def _pause(
        self, method: Method, call: Call, attempts: _Attempts, version: int, *, known: bool
    ) -> None:
        """Wait for another leader, or for a moment where one is known that did not answer."""
        if self._draining:
            raise self._given_up(method, attempts, "this node is stopping")
        left_s = call.answer_by_s - self._loop.time()
        if left_s <= 0:
            raise self._given_up(method, attempts, attempts.last)
        pause_s = left_s
        if known:
            pause_s = min(left_s, attempts.pause_s * self._jitter.uniform(0.5, 1))
            attempts.pause_s = min(2 * attempts.pause_s, PAUSE_MAX_S)
        await self._roles.changed(version, pause_s)

    def _given_up(self, method: Method, attempts: _Attempts, why: str) -> CallError:
        if attempts.maybe_applied:
            then = f"; then: {why}" if why != attempts.maybe_applied else ""
            return errors.outcome_unknown(attempts.maybe_applied + then)
        return errors.no_leader(f"{method.name} found no leader in time: {why}")

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
