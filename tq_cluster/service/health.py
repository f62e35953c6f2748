"""grpc.health.v1: SERVING only where a call can be served now."""

from __future__ import annotations

from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2

from tq_cluster.raft.door import Log, Role
from tq_cluster.service.roles import Roles

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Keeps the health service's answers true."""

    def __init__(
        self, *, log: Log, roles: Roles, led: Sequence[str], always: Sequence[str]
    ) -> None:
        """``led`` names the services that need a leader, ``always`` those that need none."""
        self.servicer = health.aio.HealthServicer()
        self._log = log
        self._roles = roles
        self._led = ["", *led]
        self._always = always
        self._shown: bool | None = None

    async def refresh(self) -> None:
        """Look whether a call could be served now; called at role changes and from time to time."""
        serving = self._can_serve()
        if self._shown is None:
            for name in self._always:
                await self.servicer.set(name, _SERVING)
        if serving != self._shown:
            self._shown = serving
            for name in self._led:
                await self.servicer.set(name, _SERVING if serving else _NOT_SERVING)

    async def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        await self.servicer.enter_graceful_shutdown()

    def _can_serve(self) -> bool:
        leader = self._roles.leader()
        if leader is None:
            return False
        status = self._log.status()
        if leader.here:
            return status.role is Role.LEADER
        peer = status.peers.get(leader.node_id)
        return peer is not None and peer.connected
