"""Sending a call on to the leader, as the bytes it came in."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import grpc
import grpc.aio

from tq.v1 import errors_pb2
from tq_cluster.service.aimd_window import Window
from tq_cluster.service.call import Call, Header, Method, number_in
from tq_cluster.service.errors import DETAILS_KEY, CallError
from tq_cluster.service.links import Links, Sent, metadata_of
from tq_cluster.service.peer_authentication import (
    PeerProof,
    Said,
    digest_of,
    marked,
    said_principal,
)
from tq_cluster.service.roles import KnownLeader, Roles
from tq_cluster.service.ways import Ways

CONNECT_S = 0.1
"""How long one attempt waits for a connection before it checks again who leads."""
DEPOSED_GRACE_S = 0.2
"""How long a call waits for the answer of a deposed leader, if nothing else can tell whether the
call was applied.
"""
REPEATED_AFTER_S = 0.02
"""The same if the call can be repeated at the new leader."""

_NOT_TAKEN = (errors_pb2.ERROR_REASON_NOT_LEADER, errors_pb2.ERROR_REASON_NO_LEADER)


class NotTakenError(Exception):
    """The call did not reach a leader: it was certainly not applied."""


class BrokenError(Exception):
    """The call may have reached the leader, and no answer came."""


@dataclass(slots=True, eq=False)
class _Flight:
    leader: KnownLeader
    sent: Sent
    repeatable: Callable[[], bool]


@dataclass(slots=True)
class _Times:
    sent_s: float = 0.0
    waited_s: float | None = None
    """How long the call waited before the leader began on it; None while that is not known."""


class Forwarder:
    """Sends calls to the leader, and gives up on a leader that was deposed without an answer."""

    def __init__(
        self, *, node_id: str, links: Links, ways: Ways, roles: Roles, proof: PeerProof
    ) -> None:
        self._node_id = node_id
        self._links = links
        self._ways = ways
        self._proof = proof
        self._roles = roles
        self._loop = asyncio.get_running_loop()
        # In the order in which they were sent, which a set would not keep.
        self._flights: dict[_Flight, None] = {}
        self._windows: defaultdict[str, Window] = defaultdict(Window)
        """One for each method, so that slow calls of one kind do not hold back other kinds."""
        roles.on_leader(self._leader_changed)

    async def send(self, leader: KnownLeader, method: Method, raw: bytes, call: Call) -> bytes:
        """Return the leader's reply.

        Raises NotTakenError, BrokenError, ShedError, or the CallError that the leader answered
        with.
        """
        if not method.paced:
            return await self._fly(leader, method, raw, call, _Times())
        window = self._windows[method.name]
        await window.enter(call.answer_by_s)
        times = _Times(self._loop.time())
        try:
            return await self._fly(leader, method, raw, call, times)
        finally:
            window.leave(times.sent_s, times.waited_s)

    async def _fly(
        self, leader: KnownLeader, method: Method, raw: bytes, call: Call, times: _Times
    ) -> bytes:
        raw = method.aged(raw, self._loop.time() - call.arrived_s)
        digest = await digest_of(raw)
        within_s = min(CONNECT_S, call.answer_by_s - self._loop.time())
        address = self._ways.to(leader.node_id, leader.address)
        if not await self._links.connected(address, within_s):
            raise NotTakenError(f"no connection to {leader.node_id} at {address}")
        current = self._roles.leader()
        if current is not None and current.node_id != leader.node_id:
            # Since this call waited; the old leader may be silent for good.
            raise NotTakenError(f"{current.node_id} leads now")
        times.sent_s = now_s = self._loop.time()
        link = self._links.large if method.replies_large else self._links.method
        sent: Sent = link(address, call.path)(
            raw,
            timeout=max(call.cut_s - now_s, 0.0),
            metadata=self._metadata(call, digest, now_s),
        )
        flight = _Flight(leader, sent, partial(method.repeatable, raw))
        self._flights[flight] = None
        try:
            reply = await sent
            times.waited_s = self._waited_s(now_s, await sent.trailing_metadata())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # its caller has gone
            # Given up here, or its channel was closed because that node came back at another port.
            raise BrokenError(f"{leader.node_id} did not answer in time") from None
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                times.waited_s = self._loop.time() - now_s
            else:
                times.waited_s = self._waited_s(now_s, error.trailing_metadata())
            failure = _read_failure(error, leader)
            if address != leader.address and _is_unbelieved(failure):
                self._ways.shun(leader.node_id)
                failure = NotTakenError(f"{leader.node_id} did not take {self._node_id} for a node")
            try:
                raise failure from None
            finally:
                del failure  # a circle: its traceback holds this frame
        else:
            return reply
        finally:
            self._flights.pop(flight, None)

    def _waited_s(self, sent_s: float, trailing: object) -> float | None:
        """Return how long a call waited before the leader began on it; None if it does not say."""
        said = metadata_of(trailing)
        if Header.SERVED_MS not in said:
            return None
        return self._loop.time() - sent_s - number_in(said, Header.SERVED_MS) / 1000

    def abandon_all(self) -> None:
        """Stop waiting for all answers."""
        self._reopen(NotTakenError("this node is stopping"))
        self._abandon(list(self._flights))

    def _metadata(self, call: Call, digest: str, now_s: float) -> list[tuple[str, str]]:
        said = Said(
            principal=said_principal(call.namespace, call.caller.principal),
            namespace=call.namespace,
            path=call.path,
            request_id=call.request_id,
            hop=self._node_id,
            elapsed=marked(int((now_s - call.received_s) * 1000)),
            digest=digest,
        )
        metadata = [
            (Header.HOP, said.hop),
            (Header.ELAPSED_MS, said.elapsed),
            (Header.DIGEST, said.digest),
        ]
        optional: Mapping[str, str] = {
            Header.REQUEST_ID: call.request_id,
            Header.TRACEPARENT: call.caller.traceparent,
            Header.CLIENT: call.client,
            Header.MIN_TERM: str(call.min_term) if call.min_term else "",
            Header.NAMESPACE: said.namespace,
            Header.PRINCIPAL: said.principal,
            # Also for an anonymous caller: without a proof none of its metadata counts, and the
            # listener for nodes takes no call.
            Header.PEER_PROOF: self._proof.sign(said) or "",
        }
        return metadata + [(key, value) for key, value in optional.items() if value]

    def _leader_changed(self, leader: KnownLeader | None) -> None:
        if leader is None:
            return  # the old leader may still answer
        self._reopen(NotTakenError(f"{leader.node_id} leads now"))
        deposed = [each for each in self._flights if each.leader.node_id != leader.node_id]
        repeatable = [flight for flight in deposed if flight.repeatable()]
        self._loop.call_later(REPEATED_AFTER_S, self._abandon, repeatable)
        self._loop.call_later(DEPOSED_GRACE_S, self._abandon, deposed)

    def _reopen(self, why: Exception) -> None:
        for window in self._windows.values():
            window.reopen(why)

    def _abandon(self, flights: list[_Flight]) -> None:
        for flight in flights:
            if flight in self._flights:
                flight.sent.cancel()


def _is_unbelieved(failure: Exception) -> bool:
    reason = errors_pb2.ERROR_REASON_UNAUTHENTICATED
    return isinstance(failure, CallError) and failure.reason == reason


def _read_failure(error: grpc.aio.AioRpcError, leader: KnownLeader) -> Exception:
    """Separate an error that the leader answered from a failure of the connection."""
    trailing = error.trailing_metadata()
    details = dict(trailing or ()).get(DETAILS_KEY)
    if isinstance(details, bytes):
        said = CallError(error.code(), error.details() or "", details)
        if said.reason in _NOT_TAKEN:
            return NotTakenError(f"{leader.node_id}: {said.message}")
        if said.reason == errors_pb2.ERROR_REASON_OUTCOME_UNKNOWN:
            return BrokenError(f"{leader.node_id}: {said.message}")
        return said
    return BrokenError(f"the link to {leader.node_id}: {error.code().name}: {error.details()}")
