"""The calls that the worker makes to a broker; tq_client's AsyncClient implements them."""

from __future__ import annotations

from typing import Protocol, TypeVar

from tq.v1.worker_service_pb2 import (
    ClaimRequest,
    ClaimResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    ReportRequest,
    ReportResponse,
)

Reply_co = TypeVar("Reply_co", covariant=True)


class Answer(Protocol[Reply_co]):
    """A reply, and when the answered attempt was sent."""

    @property
    def reply(self) -> Reply_co: ...

    @property
    def sent_at_s(self) -> float:
        """On CLOCK_BOOTTIME."""


class Broker(Protocol):
    """The calls of WorkerService, each repeated until answered or until ``timeout_s`` has passed.

    A claim may take ``request.wait`` and then ``timeout_s``. All raise `tq_client.errors.TqError`.
    """

    async def claim(self, request: ClaimRequest, *, timeout_s: float) -> Answer[ClaimResponse]: ...

    async def heartbeat(
        self, request: HeartbeatRequest, *, timeout_s: float
    ) -> Answer[HeartbeatResponse]: ...

    async def report(self, request: ReportRequest, *, timeout_s: float) -> ReportResponse: ...
