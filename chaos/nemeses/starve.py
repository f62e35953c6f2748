"""F14: a node that gets too little: processor, memory, file descriptors."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

from chaos.cluster.broker import BrokerProcess, NodeSetup
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.nemeses.on_disks import await_end
from tq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

SLICE_S = (0.03, 0.12)
"""How long a starved node runs, and waits, in turn."""
DESCRIPTORS_SPARED = 2
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
SQUEEZE_BYTES = 1 << 20
FLOOD_BYTES = 9 << 20
FLOOD_CALLS = 8
FLOOD_S = 5.0
_PROCESSES = frozenset({Transport.PROCESSES, Transport.NETLAB})


def broker(context: RunContext, node_id: str) -> BrokerProcess:
    """The process of a node."""
    node = context.cluster.nodes[node_id]
    assert isinstance(node, BrokerProcess)
    return node


def processes(context: RunContext, node_id: str) -> list[psutil.Process]:
    """The node's processes: its wrappers first, then the broker."""
    pid = broker(context, node_id).pid
    assert pid is not None, f"{node_id} does not run"
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


class StarveOfProcessor(Nemesis):
    """The leader's process runs a fifth of the time, in short slices."""

    name = "starve-of-processor"
    faults = ("F14",)
    summary = "the leader gets a fifth of the processor, in slices"
    transports = _PROCESSES
    hold_s = (3.0, 4.0)

    def __init__(self) -> None:
        self._starving: asyncio.Task[None] | None = None

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        leader = await context.cluster.await_leader(within_s=self.within_s)
        node = broker(context, leader.node_id)
        run_s, wait_s = SLICE_S

        async def starve() -> None:
            try:
                while True:
                    node.pause()
                    await asyncio.sleep(wait_s)
                    node.resume()
                    await asyncio.sleep(run_s)
            finally:
                node.resume()

        self._starving = asyncio.create_task(starve())
        return Injected("starved of processor", (leader.node_id,))

    async def heal(self, context: RunContext) -> None:
        del context
        starving, self._starving = self._starving, None
        if starving is not None:
            starving.cancel()
            await asyncio.gather(starving, return_exceptions=True)


class ExhaustDescriptors(Nemesis):
    """The leader can open no further file and accept no further connection."""

    name = "exhaust-descriptors"
    faults = ("F14",)
    summary = "the leader has no file descriptor left"
    transports = _PROCESSES
    hold_s = (2.0, 3.0)
    # A file that it could not open may end the node: it is then started again.
    excuses = ("Too many open files", "the node stops")

    def __init__(self) -> None:
        self._limits: list[tuple[int, tuple[int, int]]] = []
        self._short: list[str] = []

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        leader = await context.cluster.await_leader(within_s=self.within_s)
        self._short = [leader.node_id]
        for process in processes(context, leader.node_id):
            before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            spare = process.num_fds() + DESCRIPTORS_SPARED
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (spare, before[1]))
            self._limits.append((process.pid, before))
        return Injected("has no file descriptor left", (leader.node_id,))

    async def heal(self, context: RunContext) -> None:
        limits, self._limits = self._limits, []
        short, self._short = self._short, []
        for pid, before in limits:
            if psutil.pid_exists(pid):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        await revive_ended(context, short)


class MemoryLimit(Nemesis):
    """The leader's memory is cut below what it uses: the kernel kills it."""

    name = "out-of-memory"
    faults = ("F14",)
    summary = "the kernel kills the leader for want of memory"
    transports = _PROCESSES

    def __init__(self) -> None:
        self._groups: dict[str, Path] = {}
        self._killed: list[str] = []

    def needs(self) -> str | None:
        if os.geteuid() != 0:
            return "limiting memory needs root"
        if not (MEMORY_GROUPS / "memory.limit_in_bytes").exists():
            return f"there is no memory controller at {MEMORY_GROUPS}"
        return None

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        for node_id in node_ids:
            self._groups[node_id] = MEMORY_GROUPS / f"{folder.name}-{node_id}"
            self._groups[node_id].mkdir()

    def setup(self, node_id: str) -> NodeSetup:
        join = f'echo $$ >{self._groups[node_id]}/cgroup.procs; exec "$@"'
        return NodeSetup(wrapper=("sh", "-c", join, "sh"))

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        leader = await context.cluster.await_leader(within_s=self.within_s)
        self._killed = [leader.node_id]
        group = self._groups[leader.node_id]
        await asyncio.to_thread(_squeeze, group)
        flood = asyncio.create_task(self._flood(context, leader.node_id))
        code = await await_end(context, leader.node_id)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        if code != -signal.SIGKILL:
            context.accuse("F14", f"without memory {leader.node_id} ended with {code}")
        return Injected("ran out of memory", (leader.node_id,))

    async def _flood(self, context: RunContext, node_id: str) -> None:
        """Send calls that take memory to refuse."""
        stub = task_service_pb2_grpc.TaskServiceStub(context.cluster.channel(node_id))
        request = task_service_pb2.SubmitRequest(
            tasks=[task_pb2.TaskSpec(queue="", type="none", payload=bytes(FLOOD_BYTES))]
        )
        while True:
            calls = [stub.Submit(request, timeout=FLOOD_S) for _ in range(FLOOD_CALLS)]
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(0.05)

    async def heal(self, context: RunContext) -> None:
        killed, self._killed = self._killed, []
        await context.cluster.crash(*killed)
        for node_id in killed:
            (self._groups[node_id] / "memory.limit_in_bytes").write_text("-1")
        await context.cluster.revive(*killed)

    async def cleanup(self) -> None:
        for group in self._groups.values():
            group.rmdir()


def _squeeze(group: Path) -> None:
    """Lower the limit for as long as the kernel can reclaim pages."""
    limit = int((group / "memory.usage_in_bytes").read_text())
    while limit > SQUEEZE_BYTES:
        limit -= SQUEEZE_BYTES
        try:
            (group / "memory.limit_in_bytes").write_text(str(limit))
        except OSError:  # busy: all that is left is in use
            return


async def revive_ended(context: RunContext, node_ids: Sequence[str]) -> None:
    """Restart the nodes that have ended by themselves."""
    for node_id in node_ids:
        if context.cluster.nodes[node_id].exited() is not None:
            await context.cluster.crash(node_id)
            await context.cluster.revive(node_id)
