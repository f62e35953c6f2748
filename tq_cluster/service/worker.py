"""tq.v1.WorkerService."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tq.v1 import worker_service_pb2 as pb
from tq_cluster.core.calls.claim import release_all
from tq_cluster.core.model.operations import Claim, Replied, Report
from tq_cluster.service.backend import Leading
from tq_cluster.service.call import Call, Method, Undo
from tq_cluster.service.reads import reply_of
from tq_common.limits import WAIT_S_MAX

if TYPE_CHECKING:
    from tq_cluster.telemetry.spans import Tracing


def release_unheard(request: bytes, reply: bytes) -> bytes:
    """Return the report that releases what a claim was granted at another node."""
    asked, granted = pb.ClaimRequest.FromString(request), pb.ClaimResponse.FromString(reply)
    return release_all(asked, granted).SerializeToString()


class WorkerServicer:
    """Claiming tasks, renewing leases, reporting outcomes."""

    name = "tq.v1.WorkerService"

    def __init__(self, *, leading: Leading, tracing: Tracing | None = None) -> None:
        self._tracing = tracing
        self._leading = leading

    def methods(self) -> Sequence[Method]:
        """Return the methods of this service."""
        report = Method(
            name="Report",
            request=pb.ReportRequest,
            handle=self.report,
            paced=False,
        )
        return (
            Method(
                name="Claim",
                request=pb.ClaimRequest,
                handle=self.claim,
                unheard=self.claim_unheard,
                undo=Undo(report, f"/{self.name}/{report.name}", release_unheard),
                default_deadline_s=WAIT_S_MAX + 5,
                paced=False,
            ),
            Method(
                name="Heartbeat",
                request=pb.HeartbeatRequest,
                handle=self.heartbeat,
                paced=False,
            ),
            report,
            Method(
                name="ListWorkers",
                request=pb.ListWorkersRequest,
                handle=self.list_workers,
            ),
        )

    async def claim(self, request: pb.ClaimRequest, call: Call) -> pb.ClaimResponse:
        # An absent wait is zero: answer at once.
        wait_s = call.wait_s(request.wait, WAIT_S_MAX)
        operation = Claim(request=request, caller=call.caller)
        outcome = await self._leading.claim(operation, wait_s, call.received_s)
        reply: pb.ClaimResponse = reply_of(outcome)
        if self._tracing is not None:
            spent_s = asyncio.get_running_loop().time() - call.received_s
            self._tracing.granted(request.worker_id, reply, spent_s)
        return reply

    def claim_unheard(self, request: pb.ClaimRequest, reply: pb.ClaimResponse, call: Call) -> None:
        """Release tasks that were granted to a caller which could not be sent the reply."""
        operation = Claim(request=request, caller=call.caller)
        self._leading.give_back(operation, Replied(reply=reply))

    async def heartbeat(self, request: pb.HeartbeatRequest, call: Call) -> pb.HeartbeatResponse:
        reply: pb.HeartbeatResponse = reply_of(await self._leading.heartbeat(request, call.caller))
        return reply

    async def report(self, request: pb.ReportRequest, call: Call) -> pb.ReportResponse:
        operation = Report(request=request, caller=call.caller)
        reply: pb.ReportResponse = reply_of(await self._leading.submit(operation))
        return reply

    async def list_workers(
        self, request: pb.ListWorkersRequest, call: Call
    ) -> pb.ListWorkersResponse:
        reply: pb.ListWorkersResponse = reply_of(
            await self._leading.list_workers(request, call.caller)
        )
        return reply
