"""Renewing the leases that a heartbeat lists.

Ten thousand of them are a legal call, and half a second of work in one go. They are looked through
in slices, and other calls go on in between. That is as good as a heartbeat for each slice: its
leases are looked at and renewed in one go, and none that was renewed expires before the time that
its worker counts on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

from tq.v1 import worker_service_pb2 as pb
from tq_cluster.core import queries
from tq_cluster.core.operations import Refused, Replied
from tq_cluster.core.types import FencingToken
from tq_cluster.core.view import View
from tq_cluster.leader.leases import LeaseTable
from tq_cluster.leader.workers import WorkerRegistry

SLICE: Final = 200
"""How many leases are looked up in one go: 1.2 ms of work."""


class _Listed(NamedTuple):
    """One lease of a heartbeat's, and its part of the answer."""

    place: int
    held: pb.HeldLease
    result: pb.HeartbeatResult


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
        reign: Callable[[], Callable[[], None]],
    ) -> None:
        """``ending`` finds the entry in flight if it ends one of these leases.

        ``confirm`` returns once this node is known to have led when it was called. ``reign``
        returns a check of whether the reign that is now still lasts: it raises NotLeaderError.
        """
        self._view = view
        self._leases = leases
        self._workers = workers
        self._ending = ending
        self._confirm = confirm
        self._reign = reign

    async def answer(self, request: pb.HeartbeatRequest) -> Replied | Refused:
        """Renew what is live of the leases listed, from the moment of this call."""
        fault = queries.heartbeat_fault(request)
        if fault is not None:
            return fault  # whoever leads would say the same
        received_s = self._leases.now_s()
        lasts = self._reign()
        await self._confirm()
        lasts()
        usage = request.usage if request.HasField("usage") else None
        self._workers.renewed(request.worker_id, (), usage)
        reply = pb.HeartbeatResponse()
        later: list[_Listed] = []
        renewed: list[tuple[int, FencingToken]] = []
        for start in range(0, len(request.leases), SLICE):
            if start:
                await asyncio.sleep(0)
                lasts()
            listed = [
                _Listed(place, held, reply.results.add(task_id=held.task_id))
                for place, held in enumerate(request.leases[start : start + SLICE], start)
            ]
            later += self._renew(request.worker_id, listed, received_s, renewed)
        while later:
            # An entry on its way ends these leases: told "renewed", their worker would go on beside
            # the next. A lease ends once, so this does, too.
            flight = self._ending(FencingToken(each.held.token) for each in later)
            if flight is not None:
                await asyncio.wait([flight])
            # Leadership may have ended with the entry under way: whoever leads next knows.
            await self._confirm()
            again, later = later, []
            for start in range(0, len(again), SLICE):
                await asyncio.sleep(0)
                lasts()
                listed = again[start : start + SLICE]
                later += self._renew(request.worker_id, listed, received_s, renewed)
        for place, token in renewed:
            if token not in self._leases:  # it ended while the others were looked at
                reply.results[place].CopyFrom(_lost(request.leases[place]))
        return Replied(reply=reply)

    def _renew(
        self,
        worker_id: str,
        listed: list[_Listed],
        received_s: float,
        renewed: list[tuple[int, FencingToken]],
    ) -> list[_Listed]:
        """Renew a slice in one go, noting what was renewed; return what an entry in flight ends."""
        ending: list[_Listed] = []
        if self._ending(FencingToken(each.held.token) for each in listed) is not None:
            ending = [each for each in listed if self._ends(each)]
            listed = [each for each in listed if not self._ends(each)]
        view = self._view()
        live: list[FencingToken] = []
        for place, held, result in listed:
            if not queries.held_lease(view, held, result):
                continue
            token = FencingToken(held.token)
            live.append(token)
            if token in self._leases:  # else this leader, which is new, has yet to come across it
                renewed.append((place, token))
        self._leases.renew(live, received_s)
        self._workers.renewed(worker_id, live)
        return ending

    def _ends(self, listed: _Listed) -> bool:
        return self._ending([FencingToken(listed.held.token)]) is not None


def _lost(held: pb.HeldLease) -> pb.HeartbeatResult:
    return pb.HeartbeatResult(task_id=held.task_id, status=pb.HeartbeatResult.STATUS_LEASE_LOST)
