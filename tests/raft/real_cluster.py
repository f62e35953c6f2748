"""Three real replicas in one process: real sockets on loopback, journals on disk, real time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.patience import PATIENCE_S
from tests.simulation.world.state import Applied, KeepingMachine, ModelledStates, StateDisk
from tq_cluster.clock import SystemClock
from tq_cluster.errors import TqError
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.identity import DataDirectory
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.network import TcpNetwork
from tq_cluster.raft.replica import Replica
from tq_cluster.raft.secret import Secret
from tq_cluster.raft.startup import align
from tq_cluster.raft.syncer import ThreadSyncer

_ADDRESS = "127.0.0.1"


@dataclass
class RealNode:
    """A member. Its directory outlives it."""

    name: str
    folder: Path
    members: dict[str, str]
    secret: Secret | None = None
    state_disk: StateDisk = field(default_factory=StateDisk)
    deaths: list[BaseException] = field(default_factory=list)
    up: bool = False

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        draw = random.Random()
        self.directory = DataDirectory(self.folder, node_id=self.name, draw=draw)
        self.syncer = ThreadSyncer(loop)
        self.disk = FileDisk(self.directory.journal_path)
        self.journal = Journal(self.disk, self.syncer, on_fatal=self.deaths.append)
        self.machine = KeepingMachine(self.state_disk, _ignore)
        align(self.journal, self.machine.applied, self.state_disk.installed)
        self.replica = Replica(
            identity=self.directory,
            members=self.members,
            journal=self.journal,
            machine=self.machine,
            states=ModelledStates(self.machine, loop, draw),  # type: ignore[arg-type]  # a real loop will do
            network=TcpNetwork(),
            clock=SystemClock(),
            draw=draw,
            fatal=self.deaths.append,
            membership=lambda: None,
            secret=self.secret,
        )
        await self.replica.start()
        self.up = True

    def kill(self) -> None:
        """Like SIGKILL, as far as a process can do that to a part of itself: sockets are reset."""
        self.replica._engine._running = False
        for timer in (self.replica._engine._timer, self.replica._engine.peers._sweeper):
            if timer is not None:
                timer.cancel()
        peers = self.replica._engine.peers
        peers.stop()
        self._let_go()

    async def stop(self) -> None:
        await self.replica.stop()
        self._let_go()

    def _let_go(self) -> None:
        self.up = False
        self.syncer.close()
        self.disk.close()
        self.directory.release()


class RealCluster:
    """Nodes n1, n2, n3."""

    def __init__(self, folder: Path, secret: Secret | None = None) -> None:
        names = ("n1", "n2", "n3")
        members = dict(zip(names, free_addresses(len(names)), strict=True))
        self.nodes = {name: RealNode(name, folder / name, members, secret) for name in names}

    async def until(
        self, what: str, fact: Callable[[], bool], *, within_s: float = PATIENCE_S
    ) -> None:
        """Wait for a fact; on a timeout, say what was seen instead."""
        try:
            async with asyncio.timeout(within_s):
                while not fact():  # noqa: ASYNC110 - a fact of several nodes has no event
                    await asyncio.sleep(0.001)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {what}\n{self._describe()}") from None

    def _describe(self) -> str:
        return "\n".join(
            f"{node.name}: {node.replica.status() if node.up else 'down'}"
            for node in self.nodes.values()
        )

    def leader(self) -> RealNode | None:
        """The node that can take a proposal now."""
        for node in self.nodes.values():
            if node.up and node.replica.decidable() is not None:
                return node
        return None

    async def await_leader(self, *, within_s: float = PATIENCE_S) -> RealNode:
        await self.until("a leader", lambda: self.leader() is not None, within_s=within_s)
        leader = self.leader()
        assert leader is not None
        return leader

    async def put(self, entry: bytes, *, within_s: float = PATIENCE_S) -> int:
        """Get an entry acknowledged by the leader; return its index."""
        async with asyncio.timeout(within_s):
            while True:
                leader = await self.await_leader()
                base = leader.replica.decidable()
                assert base is not None
                try:
                    await leader.replica.propose(entry, base)
                except TqError:
                    continue
                return base.index + 1

    async def settle(self) -> list[list[Applied]]:
        """Wait until all nodes have applied the same; return the entries of each."""
        await self.put(b"the last one")
        await self.until(
            "all have applied the same",
            lambda: len({node.machine.applied for node in self.nodes.values()}) == 1,
        )
        return [node.machine.entries for node in self.nodes.values()]


@contextlib.asynccontextmanager
async def real_cluster(folder: Path, secret: Secret | None = None) -> AsyncIterator[RealCluster]:
    """Start three nodes; at the end stop them and check that none has died."""
    cluster = RealCluster(folder, secret)
    for node in cluster.nodes.values():
        await node.start()
    try:
        yield cluster
    finally:
        for node in cluster.nodes.values():
            if node.up:
                await node.stop()
    assert [death for node in cluster.nodes.values() for death in node.deaths] == []


def free_addresses(count: int) -> list[str]:
    """Addresses on which no socket listens."""
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_ADDRESS, 0))
        return [f"{_ADDRESS}:{each.getsockname()[1]}" for each in sockets]


def _ignore(_applied: Applied) -> None:
    """Do nothing: the tests read the entries later."""
