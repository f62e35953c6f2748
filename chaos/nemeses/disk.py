"""F13: a disk that is full, stuck, read-only, or fails to fsync."""

from __future__ import annotations

import asyncio
import random

from chaos.context import Injected, RunContext
from chaos.history.calls import Call, SubmitCall
from chaos.nemeses.on_disks import RESERVE_MB, OnDisks, await_end

NEARLY_FULL_MB = RESERVE_MB // 2
FULL_MB = 2


class DiskFull(OnDisks):
    """All disks fill up at once: no new tasks, and everything else goes on."""

    name = "disk-full"
    faults = ("F13",)
    summary = "every disk is full: submits are refused, completions taken, and it heals by itself"
    hold_s = (1.0, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self._since_s = 0.0

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        left_mb = draw.choice((NEARLY_FULL_MB, FULL_MB))
        since_s = self._since_s = context.ledger.now_s()
        for disk in self.disks.values():
            await asyncio.to_thread(disk.fill, left_mb)

        async def refused() -> bool | None:
            return (
                any(_for_want_of_room(call) for call in context.ledger.calls_since(since_s)) or None
            )

        await context.cluster.await_fact("a submit refused for want of room", refused, 20)
        return Injected(f"filled their disks to {left_mb} MiB", tuple(self.disks))

    async def heal(self, context: RunContext) -> None:
        for disk in self.disks.values():
            await asyncio.to_thread(disk.unfill)
        for call in context.ledger.calls_since(self._since_s):
            if _for_want_of_room(call) and not isinstance(call, SubmitCall):
                context.accuse("F13", f"a full disk refused what makes room: {call}")


def _for_want_of_room(call: Call) -> bool:
    return "DISK_PRESSURE" in call.detail


class DiskStuck(OnDisks):
    """The leader's disk takes seconds over a write."""

    name = "disk-stuck"
    faults = ("F13",)
    summary = "the leader's disk takes five seconds over a write: it no longer leads"
    hold_s = (4.5, 5.5)

    def __init__(self) -> None:
        super().__init__()
        self._stuck: list[str] = []

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        leader = await context.cluster.await_leader(within_s=self.within_s)
        self._stuck = [leader.node_id]
        since_s = context.ledger.now_s()
        await asyncio.to_thread(self.disks[leader.node_id].freeze)
        # The others go on while it is stuck.
        await context.load.await_acknowledgement(4.0, since_s=since_s + 0.1)
        return Injected("its disk is stuck", (leader.node_id,))

    async def heal(self, context: RunContext) -> None:
        del context
        stuck, self._stuck = self._stuck, []
        for node_id in stuck:
            await asyncio.to_thread(self.disks[node_id].thaw)


class Fatal(OnDisks):
    """A disk error after which nothing may be acknowledged: the node must end by itself."""

    faults = ("F13",)
    excuses = ("the node stops", "cannot be")
    hold_s = (0.5, 1.5)

    def __init__(self) -> None:
        super().__init__()
        self._down: list[str] = []

    async def break_disk(self, node_id: str) -> None:
        """Make writes to the node's disk fail."""
        raise NotImplementedError

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del draw
        leader = await context.cluster.await_leader(within_s=self.within_s)
        self._down = [leader.node_id]
        await self.break_disk(leader.node_id)
        code = await await_end(context, leader.node_id)
        if code is None:
            context.accuse(
                "fail-stop", f"{leader.node_id} goes on over a disk that fails its writes"
            )
        return Injected(self.summary, (leader.node_id,))

    async def heal(self, context: RunContext) -> None:
        down, self._down = self._down, []
        await context.cluster.crash(*down)
        await self.repair(down)
        await context.cluster.revive(*down)


class DiskReadOnly(Fatal):
    """The disk becomes read-only, as ext4 does after an error of its own."""

    name = "disk-read-only"
    summary = "the leader's file system turns read-only"

    async def break_disk(self, node_id: str) -> None:
        await asyncio.to_thread(self.disks[node_id].fail_to_read_only)


class FsyncFails(Fatal):
    """Writes succeed and their fsync does not."""

    name = "fsync-fails"
    summary = "the leader's fsyncs fail"

    async def break_disk(self, node_id: str) -> None:
        await asyncio.to_thread(self.disks[node_id].starve)
