"""What workers ask: the messages themselves (proto/tq/v1/worker_service.proto)."""

from __future__ import annotations

from datetime import timedelta

from tq.v1.worker_service_pb2 import (
    ClaimRequest,
    ClaimResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    ReportRequest,
    ReportResponse,
)
from tq_client import methods
from tq_client.calls import Answer
from tq_client.services.base import Service, copy


class WorkerCalls(Service):
    """Calls of WorkerService that workers make."""

    async def claim(
        self, request: ClaimRequest, *, timeout_s: float | None = None
    ) -> Answer[ClaimResponse]:
        """Claim tasks. A lease's deadline counts from the answer's ``sent_at_s``.

        Repeated under one request_id, so that tasks granted in an answer that was lost are
        granted again. ``timeout_s`` is on top of ``request.wait``.
        """
        hold_s = request.wait.ToTimedelta() / timedelta(seconds=1)
        return await self._caller.call(
            methods.CLAIM,
            copy(request),
            timeout_s=hold_s + self._within(timeout_s),
            hold_s=hold_s,
        )

    async def heartbeat(
        self, request: HeartbeatRequest, *, timeout_s: float | None = None
    ) -> Answer[HeartbeatResponse]:
        """Renew leases, each to its full length from the answer's ``sent_at_s``."""
        return await self._caller.call(
            methods.HEARTBEAT, request, timeout_s=self._within(timeout_s)
        )

    async def report(
        self, request: ReportRequest, *, timeout_s: float | None = None
    ) -> ReportResponse:
        """Report how attempts ended; a repeated report returns the recorded outcome."""
        answer = await self._caller.call(methods.REPORT, request, timeout_s=self._within(timeout_s))
        return answer.reply
