"""The calls of workers, with the protos' own messages (proto/tq/v1/worker_service.proto)."""

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
        """Claim tasks; the lease of each runs from the answer's ``sent_at_s``.

        The call is repeated with the same request_id: if an answer is lost, its tasks are granted
        again. The call may take ``request.wait`` and then ``timeout_s``.
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
