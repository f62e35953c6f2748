"""The connection to the brokers, which can be replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tq.v1.worker_service_pb2 import (
    ClaimRequest,
    ClaimResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    ReportRequest,
    ReportResponse,
)
from tq_client import AsyncClient
from tq_worker.broker.calls import Answer

_logger = logging.getLogger(__name__)

CLOSE_S = 5.0


class Link:
    """A `Broker` whose client can be replaced."""

    def __init__(self, connect: Callable[[], AsyncClient]) -> None:
        self._connect = connect
        self._client = connect()

    async def claim(self, request: ClaimRequest, *, timeout_s: float) -> Answer[ClaimResponse]:
        return await self._client.claim(request, timeout_s=timeout_s)

    async def heartbeat(
        self, request: HeartbeatRequest, *, timeout_s: float
    ) -> Answer[HeartbeatResponse]:
        return await self._client.heartbeat(request, timeout_s=timeout_s)

    async def report(self, request: ReportRequest, *, timeout_s: float) -> ReportResponse:
        return await self._client.report(request, timeout_s=timeout_s)

    async def reconnect(self) -> None:
        """Use new channels from now on; calls in flight fail, and their callers repeat them."""
        old, self._client = self._client, self._connect()
        await self._close(old)

    async def close(self) -> None:
        await self._close(self._client)

    async def _close(self, client: AsyncClient) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await client.close()
        except TimeoutError:
            _logger.warning("an old connection does not close")
