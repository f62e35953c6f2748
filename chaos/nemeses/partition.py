"""F4: the network between the nodes is partitioned; clients still reach every node."""

from __future__ import annotations

import random

from chaos.cluster import netlab
from chaos.cluster.netlab import NetlabCluster, Network
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport


def network_of(context: RunContext) -> Network:
    """The network of a cluster that has one of its own."""
    assert isinstance(context.cluster, NetlabCluster)
    return context.cluster.network


class NetworkNemesis(Nemesis):
    """Breaks the network between the nodes, and heals it."""

    transports = frozenset({Transport.NETLAB})
    hold_s = (2.0, 3.5)

    def __init__(self) -> None:
        self._broken = False

    def needs(self) -> str | None:
        return netlab.missing()

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        self._broken = True
        return await self.cut(context, network_of(context), draw)

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        """Break something."""
        raise NotImplementedError

    async def heal(self, context: RunContext) -> None:
        if self._broken:
            await network_of(context).heal()
            self._broken = False

    async def leader(self, context: RunContext) -> tuple[str, list[str]]:
        """The leader, and the others."""
        leader = (await context.cluster.await_leader(within_s=self.within_s)).node_id
        return leader, [name for name in context.cluster.nodes if name != leader]


class OneOut(NetworkNemesis):
    """The leader, or a follower, alone on its side."""

    name = "one-out"
    faults = ("F4",)
    summary = "one node is cut off from all others"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        leader, others = await self.leader(context)
        node = draw.choice((leader, draw.choice(others)))
        await network.isolate([node])
        return Injected("cut off from all others", (node,))


class LeaderCutFromFollowers(NetworkNemesis):
    """Clients reach the leader, and it reaches no node: the classic case of stale reads."""

    name = "leader-cut-from-followers"
    faults = ("F4",)
    summary = "the leader is cut off from its followers, and not from its clients"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        del draw
        leader, _ = await self.leader(context)
        await network.isolate([leader])
        return Injected("cut off from its followers", (leader,))


class Halves(NetworkNemesis):
    """A majority on one side, the rest on the other."""

    name = "halves"
    faults = ("F4",)
    summary = "two sides that do not reach each other"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        names = draw.sample(sorted(context.cluster.nodes), len(context.cluster.nodes))
        side = names[: len(names) // 2]
        await network.partition(side, names[len(side) :])
        return Injected("cut off from the other side", tuple(sorted(side)))


class OneWay(NetworkNemesis):
    """What the leader sends is lost and what others send to it arrives, or the other way round."""

    name = "one-way"
    faults = ("F4",)
    summary = "a leader that is heard and hears nothing, or the other way round"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        leader, others = await self.leader(context)
        if draw.choice((True, False)):
            await network.partition([leader], others, one_way=True)
            return Injected("not heard by the others", (leader,))
        await network.partition(others, [leader], one_way=True)
        return Injected("deaf to the others", (leader,))


class Ring(NetworkNemesis):
    """Each node reaches only its two neighbours: each of five sees a different majority."""

    name = "ring"
    faults = ("F4",)
    summary = "five nodes in a ring, each reaching its two neighbours alone"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        ring = draw.sample(sorted(context.cluster.nodes), len(context.cluster.nodes))
        for index, node in enumerate(ring):
            near = {ring[index - 1], node, ring[(index + 1) % len(ring)]}
            far = [name for name in ring if name not in near]
            await network.partition([node], far, one_way=True)
        return Injected("in a ring", tuple(ring))


class Bridge(NetworkNemesis):
    """Two sides that do not reach each other, and one node in the middle that reaches both."""

    name = "bridge"
    faults = ("F4",)
    summary = "two sides of two, and a fifth node that reaches both"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        names = draw.sample(sorted(context.cluster.nodes), len(context.cluster.nodes))
        middle, rest = names[0], names[1:]
        half = len(rest) // 2
        await network.partition(rest[:half], rest[half:])
        return Injected("reaches both sides, alone", (middle,))
