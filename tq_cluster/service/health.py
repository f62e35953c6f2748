"""grpc.health.v1: SERVING only if a call can be served now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tq_cluster.raft.log_api import Log, Role
from tq_cluster.service.roles import Roles

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_Status: TypeAlias = Any  # an enum's number: the published types have no name for it

WATCHERS_MAX: Final = 1_000
READ_S: Final = 10.0
"""How long a watcher may take to read a change."""

_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The protocol.

    The servicer of grpcio-health-checking writes to a watcher under the lock that ``set`` waits
    for: one watcher that does not read would hold up every change, and the node's stop.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, _Status] = {}
        self._changed = asyncio.Event()
        self._watchers = 0

    def set(self, service: str, status: _Status) -> None:
        """Publish a status from now on."""
        self._statuses[service] = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: Any,  # noqa: ANN401  # the published types know no asyncio context here
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: Any,  # noqa: ANN401  # as above
    ) -> None:
        if self._watchers >= WATCHERS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{WATCHERS_MAX} watch already: use Check"
            )
        self._watchers += 1
        try:
            await self._tell(request.service, context)
        except TimeoutError:
            late = f"what changed was not read within {READ_S:g} s"
        finally:
            self._watchers -= 1
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, late)

    async def _tell(self, service: str, context: _Context) -> NoReturn:
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, _UNKNOWN)
            if status != told:
                async with asyncio.timeout(READ_S):
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            await changed.wait()


class Health:
    """Keeps the answers of the health service current."""

    def __init__(
        self, *, log: Log, roles: Roles, led: Sequence[str], always: Sequence[str]
    ) -> None:
        """``led`` names the services that need a leader, ``always`` those that need none."""
        self.servicer = HealthServicer()
        self._log = log
        self._roles = roles
        self._led = ["", *led]
        self._always = always
        self._shown: bool | None = None
        self._stopping = False

    def refresh(self) -> None:
        """Check whether a call could be served; called at role changes and from time to time."""
        if self._stopping:
            return
        serving = self._can_serve()
        if self._shown is None:
            for name in self._always:
                self.servicer.set(name, _SERVING)
        if serving != self._shown:
            self._shown = serving
            for name in self._led:
                self.servicer.set(name, _SERVING if serving else _NOT_SERVING)

    def stop(self) -> None:
        """Publish NOT_SERVING from now on."""
        self._stopping = True
        for name in (*self._led, *self._always):
            self.servicer.set(name, _NOT_SERVING)

    def _can_serve(self) -> bool:
        leader = self._roles.leader()
        if leader is None:
            return False
        status = self._log.status()
        if leader.here:
            return status.role is Role.LEADER
        peer = status.peers.get(leader.node_id)
        return peer is not None and peer.connected
