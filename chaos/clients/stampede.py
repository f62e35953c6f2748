"""Many impatient clients, each with its own connection: ``python -m chaos.clients.stampede``.

Each reads a task once a second, and retries at once if that fails. It is a separate process, so
that the load keeps its pace. It prints ``connected`` once every client has been answered.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import grpc
from grpc import aio

from chaos.cluster.stubs import CHANNEL_OPTIONS
from tq.v1 import task_service_pb2, task_service_pb2_grpc

OPTIONS = (
    *CHANNEL_OPTIONS,
    # Without this, all channels of a process to one address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
)
CALL_S = 2.0
PAUSE_S = 1.0
REQUEST = task_service_pb2.GetTaskRequest(task_id="nobody-submitted-this")
CONNECTED = "connected"


class Stampede:
    """Counts how many clients have been answered."""

    def __init__(self, addresses: Sequence[str], clients: int) -> None:
        self._addresses = addresses
        self._clients = clients
        self._connected: set[int] = set()

    async def run(self) -> None:
        """Send reads until the process is ended."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._ask(number))

    async def _ask(self, number: int) -> None:
        address = self._addresses[number % len(self._addresses)]
        async with aio.insecure_channel(address, options=OPTIONS) as channel:
            stub = task_service_pb2_grpc.TaskServiceStub(channel)
            while True:
                try:
                    await stub.GetTask(REQUEST, timeout=CALL_S)
                except aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        await asyncio.sleep(0)
                        continue
                self._answered(number)
                await asyncio.sleep(PAUSE_S)

    def _answered(self, number: int) -> None:
        if number not in self._connected:
            self._connected.add(number)
            if len(self._connected) == self._clients:
                print(CONNECTED, flush=True)  # noqa: T201  # what the parent process waits for


if __name__ == "__main__":
    asyncio.run(Stampede(sys.argv[2].split(","), int(sys.argv[1])).run())
