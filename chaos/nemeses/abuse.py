"""F26, F27, F28: callers and strangers do everything that a port allows."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil

from chaos.abuse.__main__ import UNDER_WAY
from chaos.cluster.broker import NodeSetup
from chaos.cluster.netlab import ROOT
from chaos.cluster.ports import HeldPorts
from chaos.context import Injected, RunContext
from chaos.history.outages import longest_silence
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.nemeses.starve import broker, processes

UNDER_WAY_WITHIN_S = 60.0
SILENCE_MAX_S = 1.0
"""How long writes may be out under abuse."""
MEMORY_BYTES_MAX = 512 << 20
"""The limit of a broker's anonymous memory under any abuse."""
LOOK_S = 0.2
SOFT_DESCRIPTORS = 1_024
"""The default of service managers and container engines for a process."""


class Abuse(Nemesis):
    """An abuser in a process of its own; no broker ends, none loses the lead, writes go on."""

    kind: ClassVar[str]
    """As ``python -m chaos.abuse`` calls it."""
    transports = frozenset({Transport.PROCESSES})
    hold_s = (4.0, 6.0)
    alone = True

    def __init__(self) -> None:
        self._abuser: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._began_s = 0.0
        self._led: tuple[str, int] = ("", 0)
        self._memory: dict[str, int] = {}
        self._ports: HeldPorts | None = None
        self._metrics: dict[str, str] = {}

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        del folder
        self._ports = HeldPorts(len(node_ids))
        self._metrics = dict(zip(node_ids, self._ports.addresses, strict=True))

    def setup(self, node_id: str) -> NodeSetup:
        limit = f'ulimit -Sn {SOFT_DESCRIPTORS}; exec "$@"'
        return NodeSetup(
            wrapper=("sh", "-c", limit, "sh"), settings={"metrics_listen": self._metrics[node_id]}
        )

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        leader = await context.cluster.await_leader(self.within_s)
        self._led = (leader.node_id, leader.term)
        self._memory = {}
        nodes = [broker(context, node_id) for node_id in context.cluster.nodes]
        self._watching = asyncio.create_task(self._watch(context))
        self._began_s = context.ledger.now_s()
        self._abuser = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chaos.abuse", self.kind),
            *("--seed", str(draw.randrange(1_000_000))),
            *("--api", ",".join(node.address for node in nodes)),
            *("--raft", ",".join(node.raft_address for node in nodes)),
            # Of several nemeses in one scenario the last one's ports are in the nodes' files.
            *("--metrics", ",".join(str(node.setup.settings["metrics_listen"]) for node in nodes)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._abuser.stdout is not None
        async with asyncio.timeout(UNDER_WAY_WITHIN_S):
            said = await self._abuser.stdout.readline()
        assert said.decode().strip() == UNDER_WAY, f"the abuser ended early: {said!r}"
        return Injected(self.summary, tuple(context.cluster.nodes), broke_s=self._began_s)

    async def heal(self, context: RunContext) -> None:
        if self._abuser is None:
            return
        ended_early = self._abuser.returncode
        await self._end()
        if ended_early is not None:
            context.accuse("suite", f"the abuser ended by itself with {ended_early}")
        await self._judge(context)

    async def _judge(self, context: RunContext) -> None:
        leader = await context.cluster.await_leader(self.within_s)
        node_id, term = self._led
        if (leader.node_id, leader.term) != self._led:
            now = f"now {leader.node_id} in {leader.term}"
            context.accuse("available", f"{self.name}: {node_id} led in term {term}; {now}")
        silence_s = longest_silence(context.ledger, self._began_s, context.ledger.now_s())
        most = max(self._memory.values(), default=0)
        seen = f"writes out for {silence_s:.2f} s at most, a broker took {most >> 20} MB at most"
        with context.stage(self.name, seen, *context.cluster.nodes):
            pass
        if silence_s > SILENCE_MAX_S:
            context.accuse("available", f"{self.name}: writes were out for {silence_s:.2f} s")
        for name, most in sorted(self._memory.items()):
            if most > MEMORY_BYTES_MAX:
                context.accuse("bounded", f"{self.name}: {name} took {most >> 20} MB of memory")

    async def _watch(self, context: RunContext) -> None:
        """Record the peak memory of each broker."""
        while True:
            for node_id in context.cluster.standing:
                with suppress(psutil.Error, AssertionError):
                    now = max(anonymous_bytes(one.pid) for one in processes(context, node_id))
                    self._memory[node_id] = max(now, self._memory.get(node_id, 0))
            await asyncio.sleep(LOOK_S)

    async def cleanup(self) -> None:
        await self._end()
        if self._ports is not None:
            self._ports.give_back()

    async def _end(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        abuser, self._abuser = self._abuser, None
        if abuser is not None:
            if abuser.returncode is None:
                abuser.kill()
            await abuser.wait()


def anonymous_bytes(pid: int) -> int:
    """A process's own memory, without mapped files."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) << 10 if found else 0


class IdleConnections(Abuse):
    """More connections to every port than a process usually has descriptors."""

    name = "idle-connections"
    faults = ("F27",)
    kind = "idle"
    summary = "1,200 idle connections to every port of brokers with 1,024 descriptors"


class DrippingConnections(Abuse):
    """As ``IdleConnections``, with one byte a second on each."""

    name = "dripping-connections"
    faults = ("F27",)
    kind = "drip"
    summary = "1,200 connections to every port that send a byte a second"


class SlowReaders(Abuse):
    """Large answers that are asked for and not read."""

    name = "slow-readers"
    faults = ("F27",)
    kind = "readers"
    summary = "connections that ask 60 times for a task of 9.9 MB and read none of it"


class Giants(Abuse):
    """Calls beyond every limit, of up to 31 MiB."""

    name = "giants"
    faults = ("F26",)
    kind = "giants"
    summary = "calls beyond every limit, of 1 to 31 MiB, several at once"


class Conversations(Abuse):
    """Conversations with messages that are never whole, and with answers that are not read."""

    name = "conversations"
    faults = ("F26", "F27")
    kind = "conversations"
    summary = "144 messages of 11 MiB that lack their end, and 64 conversations that are not read"


class Storms(Abuse):
    """Every kind of call at its limits, many at once, through every broker."""

    name = "storms"
    faults = ("F26",)
    kind = "storms"
    summary = "storms of every kind of call at its limits, through every broker"


class PortStrangers(Abuse):
    """Garbage and forged greetings on the port that peers use."""

    name = "port-strangers"
    faults = ("F28",)
    kind = "strangers"
    summary = "garbage, forged greetings and extreme terms on the raft ports"
