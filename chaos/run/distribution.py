"""The distribution of write outages when leaders die or fall silent."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from chaos.clients.client import StubClient
from chaos.clients.worker import Plan
from chaos.cluster.netlab import NetlabCluster
from chaos.cluster.processes import ProcessCluster
from chaos.history.outages import Outage, first_acknowledged_s, outage
from chaos.history.record import Ledger
from tq.v1 import task_pb2

WRITERS = 3
EVERY_S = 0.02
NODES = 3
WITHIN_S = 30.0
QUEUE = "outages"


class Silence(enum.StrEnum):
    """How the leader falls silent."""

    SIGKILL = "sigkill"
    SIGSTOP = "sigstop"
    PARTITION = "partition"
    """Cut off from the other nodes and not from its clients; needs network namespaces."""


async def measure(
    fault: Silence, times: int, folder: Path, tell: Callable[[Outage], None]
) -> list[Outage]:
    """Break the leader so many times, with a healthy cluster in between; ``tell`` gets each outage.

    Each of three writers sends a write every 20 ms, without waiting for earlier ones. An outage
    lasts from the fault to the first acknowledgement of a write that was sent after it. The tool
    that makes a partition takes a moment: the outage then starts when the partition is complete.
    """
    cluster: ProcessCluster
    if fault is Silence.PARTITION:
        cluster = NetlabCluster(folder, nodes=NODES)
    else:
        cluster = ProcessCluster(folder, nodes=NODES)
    ledger = Ledger(time.monotonic)
    found: list[Outage] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cluster)
        await cluster.await_caught_up(cluster.nodes, WITHIN_S)
        for number in range(WRITERS):
            writer = StubClient(cluster.addresses, ledger, f"writer-{number + 1}")
            stack.push_async_callback(writer.close)
            writing = asyncio.create_task(_write(writer))
            stack.push_async_callback(_end, writing)
        await _acknowledged(cluster, ledger, ledger.now_s())
        for _ in range(times):
            leader = (await cluster.await_leader(WITHIN_S)).node_id
            at_s = ledger.now_s()
            mend = await _break(cluster, fault, leader)
            if fault is Silence.PARTITION:
                at_s = ledger.now_s()
            await _acknowledged(cluster, ledger, at_s)
            measured = outage(ledger, at_s)
            assert measured is not None
            found.append(measured)
            tell(measured)
            await mend
            await cluster.await_caught_up(cluster.nodes, WITHIN_S)
            # Measured calls are no longer needed, and a hundred outages are many calls.
            ledger.calls.clear()
    return found


async def _break(cluster: ProcessCluster, fault: Silence, leader: str) -> Awaitable[None]:
    """Break the leader; return what heals it."""
    match fault:
        case Silence.SIGKILL:
            await cluster.crash(leader)
            return cluster.revive(leader)
        case Silence.SIGSTOP:
            await cluster.freeze(leader)
            return cluster.thaw(leader)
        case Silence.PARTITION:
            assert isinstance(cluster, NetlabCluster)
            await cluster.network.isolate([leader])
            return cluster.network.heal()


async def _acknowledged(cluster: ProcessCluster, ledger: Ledger, since_s: float) -> None:
    async def acknowledged() -> bool | None:
        return first_acknowledged_s(ledger, since_s) is not None or None

    await cluster.await_fact("a new write to be acknowledged", acknowledged, WITHIN_S)


async def _write(writer: StubClient) -> None:
    """Send writes at a steady pace, each in a task of its own."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    sent = 0
    async with asyncio.TaskGroup() as group:
        while True:
            sent += 1
            payload = Plan().payload(f"{writer.actor} {sent}")
            spec = task_pb2.TaskSpec(queue=QUEUE, type="planned", payload=payload)
            group.create_task(_submit(writer, spec))
            await asyncio.sleep(max(0.0, started_s + sent * EVERY_S - loop.time()))


async def _submit(writer: StubClient, spec: task_pb2.TaskSpec) -> None:
    await writer.submit([spec])


async def _end(writing: asyncio.Task[None]) -> None:
    writing.cancel()
    for result in await asyncio.gather(writing, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
