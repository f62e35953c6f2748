"""F6: the network is there, and bad."""

from __future__ import annotations

import random

from chaos.arena import Arena
from chaos.nemeses.partition import NetworkNemesis
from chaos.nemesis import Deed
from chaos.netlab import Network

DELAY_MS, JITTER_MS = (5, 40), (2, 30)
LOSS_PERCENT = (2, 12)
SLOW_KBIT = (200, 600)
LAG_MS = (150, 400)


class Delay(NetworkNemesis):
    """Every packet between the nodes is late, and some overtake others."""

    name = "delay"
    faults = ("F6",)
    summary = "packets between the nodes are late and out of order"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        nodes = sorted(arena.cluster.nodes)
        ms, jitter_ms = draw.randint(*DELAY_MS), draw.randint(*JITTER_MS)
        for node in nodes:
            others = [name for name in nodes if name != node]
            await network.delay([node], ms, min(ms, jitter_ms), to=others)
        return Deed(f"{ms} ms late, plus or minus {min(ms, jitter_ms)}", tuple(nodes))


class Loss(NetworkNemesis):
    """A part of all packets is lost."""

    name = "loss"
    faults = ("F6",)
    summary = "a part of all packets is lost"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        percent = draw.randint(*LOSS_PERCENT)
        nodes = sorted(arena.cluster.nodes)
        await network.lose(nodes, percent)
        return Deed(f"{percent} % of what they send is lost", tuple(nodes))


class LowBandwidth(NetworkNemesis):
    """The leader's line is thin."""

    name = "low-bandwidth"
    faults = ("F6",)
    summary = "the leader can send a few hundred kilobits a second"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        leader, _ = await self.leader(arena)
        kbit = draw.randint(*SLOW_KBIT)
        await network.narrow([leader], kbit)
        return Deed(f"sends {kbit} kbit/s at most", (leader,))


class SlowFollower(NetworkNemesis):
    """One follower is far away: the others must not wait for it."""

    name = "slow-follower"
    faults = ("F6",)
    summary = "one follower is hundreds of milliseconds away"

    async def cut(self, arena: Arena, network: Network, draw: random.Random) -> Deed:
        _, others = await self.leader(arena)
        node, ms = draw.choice(others), draw.randint(*LAG_MS)
        await network.delay([node], ms, to=[n for n in arena.cluster.nodes if n != node])
        return Deed(f"{ms} ms away", (node,))
