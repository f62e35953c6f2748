"""Renewing the leases that a heartbeat lists.

A call may list ten thousand leases, which is 60 ms of work in one go. They are processed in
slices, one slice of all heartbeats in each turn of the loop, and other calls run in between. That
is equivalent to one heartbeat for each slice: the leases of a slice are checked and renewed in one
step, and no renewed lease expires before the time that its worker counts on.

Heartbeats share turns with one another and not with reads: no lease runs out because its heartbeat
waited behind lists, however many are requested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tq.v1 import worker_service_pb2 as pb
from tq_cluster.core.model.ids import echoed
from tq_cluster.core.model.operations import Refused, Replied
from tq_cluster.core.model.types import FencingToken
from tq_cluster.core.reads import queries
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.leader.leases import LeaseTable
from tq_cluster.leader.workers import WorkerRegistry
from tq_cluster.reading import Reading

SLICE: Final = 200
"""How many leases are looked up in one go: 1.2 ms of work, as much as reads may take of a turn."""


@dataclass(slots=True)
class _Renewal:
    """A heartbeat that is being answered."""

    request: pb.HeartbeatRequest
    namespace: int
    received_s: float
    lasts: Callable[[], None]
    """Raises NotLeaderError once the leadership in which the heartbeat came is over."""
    reply: pb.HeartbeatResponse = field(default_factory=pb.HeartbeatResponse)
    renewed: list[int] = field(default_factory=list)
    """The positions in the request of the renewed leases."""

    def token(self, place: int) -> FencingToken:
        return FencingToken(self.request.leases[place].token)

    def listed(self, place: int) -> tuple[pb.HeldLease, pb.HeartbeatResult]:
        """Return one lease, and its part of the answer."""
        held = self.request.leases[place]
        if place == len(self.reply.results):  # the first time: positions come in order
            return held, self.reply.results.add(task_id=echoed(held.task_id))
        return held, self.reply.results[place]


class Heartbeats:
    """Answers heartbeats while this node leads."""

    def __init__(
        self,
        *,
        view: Callable[[], View],
        leases: LeaseTable,
        workers: WorkerRegistry,
        ending: Callable[[Iterable[FencingToken]], asyncio.Future[None] | None],
        confirm: Callable[[], Awaitable[None]],
        leadership: Callable[[], Callable[[], None]],
    ) -> None:
        """``ending`` finds the entry in flight if it ends one of these leases.

        ``confirm`` returns once this node is known to have led when it was called. ``leadership``
        returns a check that raises NotLeaderError once the current leadership is over.
        """
        self._view = view
        self._leases = leases
        self._workers = workers
        self._ending = ending
        self._confirm = confirm
        self._leadership = leadership
        self._turns = Reading()

    async def answer(self, request: pb.HeartbeatRequest, namespace: int) -> Replied | Refused:
        """Renew the listed leases that are live in a namespace, from the moment of this call."""
        fault = queries.heartbeat_fault(request)
        if fault is not None:
            return fault  # every leader would answer the same
        renewal = _Renewal(request, namespace, self._leases.now_s(), self._leadership())
        await self._confirm()
        renewal.lasts()
        usage = request.usage if request.HasField("usage") else None
        self._workers.renewed(namespace, request.worker_id, (), usage)
        left: Sequence[int] = range(len(request.leases))
        while left:
            left = await self._turns.answer(
                partial(self._look_through, renewal=renewal, places=left),
                lambda: nullcontext(self._view()),
            )
            if not left:
                break
            # An entry on its way ends these leases: after a "renewed" their worker would run beside
            # the next one. A lease ends once, so this loop ends.
            flight = self._ending(renewal.token(place) for place in left)
            if flight is not None:
                await asyncio.wait([flight])
            # Leadership may have ended with the entry under way: then the next leader answers.
            await self._confirm()
        for place in renewal.renewed:
            if renewal.token(place) not in self._leases:  # ended while the others were looked at
                renewal.reply.results[place].CopyFrom(_lost(request.leases[place]))
        return Replied(reply=renewal.reply)

    def _look_through(
        self, view: Reader, renewal: _Renewal, places: Sequence[int]
    ) -> Steps[list[int]]:
        """Renew a slice in each step; return the positions that an entry in flight ends."""
        later: list[int] = []
        for start in range(0, len(places), SLICE):
            if start:
                yield
            renewal.lasts()
            later += self._renew(view, renewal, places[start : start + SLICE])
        return later

    def _renew(self, view: View, renewal: _Renewal, places: Sequence[int]) -> list[int]:
        """Renew live leases; return the positions of those that an entry in flight ends."""
        ending: list[int] = []
        if self._ending(renewal.token(place) for place in places) is not None:
            ending = [place for place in places if self._ending([renewal.token(place)]) is not None]
        passed_over = set(ending)
        live: list[FencingToken] = []
        scope = Scope.of(view, renewal.namespace)
        for place in places:
            held, result = renewal.listed(place)
            if place in passed_over or not queries.held_lease(scope, held, result):
                continue
            token = FencingToken(held.token)
            live.append(token)
            if token in self._leases:  # else this leader is new and has not loaded it yet
                renewal.renewed.append(place)
        self._leases.renew(live, renewal.received_s)
        self._workers.renewed(renewal.namespace, renewal.request.worker_id, live)
        return ending


def _lost(held: pb.HeldLease) -> pb.HeartbeatResult:
    task_id = echoed(held.task_id)
    return pb.HeartbeatResult(task_id=task_id, status=pb.HeartbeatResult.STATUS_LEASE_LOST)
