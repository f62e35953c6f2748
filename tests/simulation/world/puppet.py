"""A member that the test controls, beside one real replica."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.simulation.world.host import Host
from tests.simulation.world.network import ModelledNetwork
from tests.simulation.world.virtual_loop import HostLoop, VirtualLoop
from tq.internal.v1 import peer_pb2
from tq_cluster.raft import frames
from tq_cluster.raft.identity import MemberList
from tq_cluster.raft.settings import RaftSettings

CLUSTER_ID = "stage"
T = TypeVar("T")


class Puppet(asyncio.Protocol):
    """Sends and receives frames; received messages are in ``heard``."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        self.heard: list[peer_pb2.PeerMessage] = []
        self.introduction = peer_pb2.Hello(
            format=frames.FORMAT,
            cluster_version=1,
            cluster_id=CLUSTER_ID,
            node_id=name,
            incarnation=f"disk of {name}",
            member_ids=sorted(stage.members),
            wall_ms=1_700_000_000_000,
        )
        """The message that it sends when a connection begins."""
        self._stage = stage
        self._transport: asyncio.Transport | None = None
        self._decoder = frames.Decoder()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def itself(self) -> Puppet:
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._decoder = frames.Decoder()
        self._decoder.takes_pieces = True
        self.say(hello=self.introduction)

    def data_received(self, data: bytes) -> None:
        try:
            self.heard.extend(self._decoder.feed(data))
        except frames.DamagedFrameError:
            # As a broker does that does not support proofs.
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None

    def say(self, **body: object) -> None:
        """Send a PeerMessage with that body."""
        assert self._transport is not None, f"{self.name} is not connected"
        message = peer_pb2.PeerMessage(**body)  # type: ignore[arg-type]  # the caller names the field
        for frame in frames.encode(message):
            self._transport.write(frame)

    def replies(self) -> list[peer_pb2.AppendReply]:
        return [m.append_reply for m in self.heard if m.HasField("append_reply")]

    def appends(self) -> list[peer_pb2.Append]:
        return [m.append for m in self.heard if m.HasField("append")]

    async def hears(self, kind: str) -> peer_pb2.PeerMessage:
        """Return the next message of that kind, and drop the messages before it."""
        await self._stage.until(f"{self.name} hears {kind}", lambda: self._has(kind))
        while not self.heard[0].HasField(kind):  # type: ignore[arg-type]  # any field's name
            self.heard.pop(0)
        return self.heard.pop(0)

    def _has(self, kind: str) -> bool:
        return any(message.HasField(kind) for message in self.heard)  # type: ignore[arg-type]


class Stage:
    """The real replica ``n2``; all other members are puppets."""

    def __init__(self, loop: VirtualLoop, *, size: int, settings: RaftSettings) -> None:
        self.loop = loop
        names = [f"n{number + 1}" for number in range(size)]
        self.members = {name: f"{name}:7000" for name in names}
        self.network = ModelledNetwork(loop, random.Random(1))
        self.deaths: list[BaseException] = []
        self.proposed: list[asyncio.Future[None]] = []
        self.host = Host(
            name="n2",
            members=self.members,
            loop=loop,
            network=self.network,
            settings=settings,
            seed="stage",
        )
        disks = {name: f"disk of {name}" for name in names}
        self.host.identity.join(CLUSTER_ID, MemberList(incarnations=disks))
        self.host.on_death = lambda _host, error: self.deaths.append(error)
        self.puppets = {name: Puppet(self, name) for name in names if name != "n2"}

    async def start(self, *, all_connect: bool = True) -> None:
        """Start the replica and the puppets."""
        for name, puppet in self.puppets.items():
            if name > "n2":
                host_loop = HostLoop(self.loop)
                self.network.listen(self.members[name], name, host_loop, puppet.itself)
        await self.host.start()
        for name, puppet in self.puppets.items():
            if name < "n2":
                self.dial(puppet)
        if all_connect:
            await self.until("all are connected", self._all_connected)

    def dial(self, puppet: Puppet) -> None:
        """Connect a puppet to the replica."""
        network = self.network.of_host(puppet.name, HostLoop(self.loop))
        network.dial(self.members["n2"], puppet, _give_up)

    def _all_connected(self) -> bool:
        peers = self.host.replica.status().peers
        return all(peer.connected for peer in peers.values()) and all(
            puppet.connected for puppet in self.puppets.values()
        )

    async def until(self, what: str, fact: Callable[[], bool], *, within_s: float = 5.0) -> None:
        end_s = self.loop.time() + within_s
        while not fact():
            if self.loop.time() >= end_s:
                raise AssertionError(
                    f"not within {within_s} s: {what}\n{self.host.replica.status()}"
                )
            await asyncio.sleep(0.001)

    async def elect(self, *voters: str) -> int:
        """Get the replica elected with these votes; return its term."""
        for name in voters:
            request = (await self.puppets[name].hears("pre_vote_request")).pre_vote_request
            reply = peer_pb2.PreVoteReply(
                attempt=request.attempt, term=request.term - 1, granted=True
            )
            self.puppets[name].say(pre_vote_reply=reply)
        for name in voters:
            vote = (await self.puppets[name].hears("vote_request")).vote_request
            self.puppets[name].say(vote_reply=peer_pb2.VoteReply(term=vote.term, granted=True))
        await self.until("it leads", lambda: self.host.replica.status().leader_id == "n2")
        return self.host.replica.status().term

    async def propose(self, entry: bytes) -> int:
        """Propose an entry to the replica, which leads; return its index."""
        replica = self.host.replica
        await self.until("it can take an entry", lambda: replica.decidable() is not None)
        base = replica.decidable()
        assert base is not None
        self.proposed.append(replica.propose(entry, base))
        return base.index + 1

    async def pass_time(self, seconds: float) -> None:
        """Let virtual time pass; everything due by then has happened."""
        await asyncio.sleep(seconds)


def append(
    term: int, prev: tuple[int, int], entries: list[tuple[int, bytes]], commit_index: int = 1
) -> peer_pb2.Append:
    """An append as a leader sends it: prev is (index, term), an entry (term, command)."""
    return peer_pb2.Append(
        term=term,
        round=1,
        prev_index=prev[0],
        prev_term=prev[1],
        commit_index=commit_index,
        entries=[peer_pb2.LogEntry(term=of_term, command=command) for of_term, command in entries],
    )


def on_stage(
    scenario: Callable[[Stage], Awaitable[T]],
    *,
    size: int = 3,
    settings: RaftSettings | None = None,
    started: bool = True,
) -> T:
    """Play a scenario in virtual time; with ``started`` everyone is connected when it begins."""
    loop = VirtualLoop()

    async def play() -> T:
        stage = Stage(loop, size=size, settings=settings or RaftSettings())
        if started:
            await stage.start()
        return await scenario(stage)

    try:
        return loop.run(play())
    finally:
        loop.close()


def _give_up(error: OSError) -> None:
    raise error
