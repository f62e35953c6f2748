"""A workload whose work runs in tasks of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from chaos.clients.client import StubClient
from chaos.cluster.stubs import StubCaller
from chaos.context import RunContext
from chaos.workload import Workload

CallerT = TypeVar("CallerT", bound=StubCaller)


class Background(Workload):
    """Runs the given work until it is closed, and raises everything that failed."""

    def __init__(self) -> None:
        self._running: list[asyncio.Task[None]] = []
        self._callers: list[StubCaller] = []
        self.client: StubClient

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        del seed
        self.client = self.take(StubClient(addresses, context.ledger, f"{self.name}-client"))

    def take(self, caller: CallerT) -> CallerT:
        """Take over this caller, and close it at the end."""
        self._callers.append(caller)
        return caller

    def go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this work until the workload closes, or until the work ends."""
        self._running.append(asyncio.create_task(work))

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """As ``go_on``, for work that is stopped earlier or waited for."""
        task = asyncio.create_task(work)
        self._running.append(task)
        return task

    async def stop(self, task: asyncio.Task[None]) -> None:
        """End one task of work; raise what it raised."""
        self._running.remove(task)
        task.cancel()
        for result in await asyncio.gather(task, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def close(self) -> None:
        for task in list(self._running):
            await self.stop(task)
        for caller in self._callers:
            await caller.close()
