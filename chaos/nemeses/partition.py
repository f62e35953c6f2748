"""F4: the network between the nodes comes apart; clients still reach every node."""

from __future__ import annotations

import random

from chaos import netlab
from chaos.arena import Arena
from chaos.nemesis import Deed, Nemesis, Transport
from chaos.netlab import NetlabCluster, Network


def network_of(arena: Arena) -> Network:
    """The network of a cluster that has one of its own."""
    assert isinstance(arena.cluster, NetlabCluster)
    return arena.cluster.network


class NetworkNemesis(Nemesis):
    """Breaks what lies between the nodes, and mends all of it."""

    transports = frozenset({Transport.NETLAB})
    hold_s = (2.0, 3.5)

    def __init__(self) -> None:
        self._broken = False

    def needs(self) -> str | None:
        return netlab.missing()

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        self._broken = True
        return await self.cut(arena, network_of(arena), draw)

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        """Break something."""
        raise NotImplementedError

    async def heal(self, arena: Arena) -> None:
        if self._broken:
            await network_of(arena).heal()
            self._broken = False

    async def leader(self, arena: Arena) -> tuple[str, list[str]]:
        """The leader, and the others."""
        leader = (await arena.cluster.await_leader(within_s=self.within_s)).node_id
        return leader, [name for name in arena.cluster.nodes if name != leader]


class OneOut(NetworkNemesis):
    """The leader, or a follower, alone on its side."""

    name = "one-out"
    faults = ("F4",)
    summary = "one node is cut off from all others"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        leader, others = await self.leader(arena)
        node = draw.choice((leader, draw.choice(others)))
        await network.isolate([node])
        return Deed("cut off from all others", (node,))


class LeaderCutFromFollowers(NetworkNemesis):
    """The leader's clients reach it, and it reaches nobody: the classic of stale reads."""

    name = "leader-cut-from-followers"
    faults = ("F4",)
    summary = "the leader is cut off from its followers, and not from its clients"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        del draw
        leader, _ = await self.leader(arena)
        await network.isolate([leader])
        return Deed("cut off from its followers", (leader,))


class Halves(NetworkNemesis):
    """A majority on one side, the rest on the other."""

    name = "halves"
    faults = ("F4",)
    summary = "two sides that do not reach each other"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        names = draw.sample(sorted(arena.cluster.nodes), len(arena.cluster.nodes))
        side = names[: len(names) // 2]
        await network.partition(side, names[len(side) :])
        return Deed("cut off from the other side", tuple(sorted(side)))


class OneWay(NetworkNemesis):
    """What the leader sends is lost, what it is sent arrives; or the other way round."""

    name = "one-way"
    faults = ("F4",)
    summary = "a leader that is heard and hears nothing, or the other way round"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        leader, others = await self.leader(arena)
        if draw.choice((True, False)):
            await network.partition([leader], others, one_way=True)
            return Deed("not heard by the others", (leader,))
        await network.partition(others, [leader], one_way=True)
        return Deed("deaf to the others", (leader,))


class Ring(NetworkNemesis):
    """Each node reaches its two neighbours alone: each of five sees a majority, another one."""

    name = "ring"
    faults = ("F4",)
    summary = "five nodes in a ring, each reaching its two neighbours alone"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        ring = draw.sample(sorted(arena.cluster.nodes), len(arena.cluster.nodes))
        for index, node in enumerate(ring):
            near = {ring[index - 1], node, ring[(index + 1) % len(ring)]}
            far = [name for name in ring if name not in near]
            await network.partition([node], far, one_way=True)
        return Deed("in a ring", tuple(ring))


class Bridge(NetworkNemesis):
    """Two sides that do not reach each other, and one node in the middle that reaches both."""

    name = "bridge"
    faults = ("F4",)
    summary = "two sides of two, and a fifth node that reaches both"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        names = draw.sample(sorted(arena.cluster.nodes), len(arena.cluster.nodes))
        middle, rest = names[0], names[1:]
        half = len(rest) // 2
        await network.partition(rest[:half], rest[half:])
        return Deed("reaches both sides, alone", (middle,))
