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

from chaos.arena import Arena
from chaos.broker import BrokerProcess, NodeSetup
from chaos.nemeses.on_disks import await_end
from chaos.nemesis import Deed, Nemesis, Transport
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


def broker(arena: Arena, node_id: str) -> BrokerProcess:
    """A node as the process that it is."""
    node = arena.cluster.nodes[node_id]
    assert isinstance(node, BrokerProcess)
    return node


def processes(arena: Arena, node_id: str) -> list[psutil.Process]:
    """The node's process, after those that wrap it."""
    pid = broker(arena, node_id).pid
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

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        del draw
        leader = await arena.cluster.await_leader(within_s=self.within_s)
        node = broker(arena, leader.node_id)
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
        return Deed("starved of processor", (leader.node_id,))

    async def heal(self, arena: Arena) -> None:
        del arena
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
    # What it could not open meanwhile may end it: it is started again like after any end.
    excuses = ("Too many open files", "the node stops")

    def __init__(self) -> None:
        self._limits: list[tuple[int, tuple[int, int]]] = []
        self._short: list[str] = []

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        del draw
        leader = await arena.cluster.await_leader(within_s=self.within_s)
        self._short = [leader.node_id]
        for process in processes(arena, leader.node_id):
            before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            spare = process.num_fds() + DESCRIPTORS_SPARED
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (spare, before[1]))
            self._limits.append((process.pid, before))
        return Deed("has no file descriptor left", (leader.node_id,))

    async def heal(self, arena: Arena) -> None:
        limits, self._limits = self._limits, []
        short, self._short = self._short, []
        for pid, before in limits:
            if psutil.pid_exists(pid):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        await revive_ended(arena, short)


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

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        del draw
        leader = await arena.cluster.await_leader(within_s=self.within_s)
        self._killed = [leader.node_id]
        group = self._groups[leader.node_id]
        await asyncio.to_thread(_squeeze, group)
        flood = asyncio.create_task(self._flood(arena, leader.node_id))
        code = await await_end(arena, leader.node_id)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        if code != -signal.SIGKILL:
            arena.accuse("F14", f"without memory {leader.node_id} ended with {code}")
        return Deed("ran out of memory", (leader.node_id,))

    async def _flood(self, arena: Arena, node_id: str) -> None:
        """Send calls that take memory to refuse."""
        stub = task_service_pb2_grpc.TaskServiceStub(arena.cluster.channel(node_id))
        request = task_service_pb2.SubmitRequest(
            tasks=[task_pb2.TaskSpec(queue="", type="none", payload=bytes(FLOOD_BYTES))]
        )
        while True:
            calls = [stub.Submit(request, timeout=FLOOD_S) for _ in range(FLOOD_CALLS)]
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(0.05)

    async def heal(self, arena: Arena) -> None:
        killed, self._killed = self._killed, []
        await arena.cluster.crash(*killed)
        for node_id in killed:
            (self._groups[node_id] / "memory.limit_in_bytes").write_text("-1")
        await arena.cluster.revive(*killed)

    async def cleanup(self) -> None:
        for group in self._groups.values():
            group.rmdir()


def _squeeze(group: Path) -> None:
    """Lower the limit as far as the kernel finds pages to take back."""
    limit = int((group / "memory.usage_in_bytes").read_text())
    while limit > SQUEEZE_BYTES:
        limit -= SQUEEZE_BYTES
        try:
            (group / "memory.limit_in_bytes").write_text(str(limit))
        except OSError:  # busy: all that is left is in use
            return


async def revive_ended(arena: Arena, node_ids: Sequence[str]) -> None:
    """Start those again that have ended by themselves."""
    for node_id in node_ids:
        if arena.cluster.nodes[node_id].exited() is not None:
            await arena.cluster.crash(node_id)
            await arena.cluster.revive(node_id)
