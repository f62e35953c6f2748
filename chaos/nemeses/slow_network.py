"""F6: the network works, but badly."""

from __future__ import annotations

import random

from chaos.cluster.netlab import Network
from chaos.context import Injected, RunContext
from chaos.nemeses.partition import NetworkNemesis

DELAY_MS, JITTER_MS = (5, 40), (2, 30)
LOSS_PERCENT = (2, 12)
SLOW_KBIT = (200, 600)
LAG_MS = (150, 400)


class Delay(NetworkNemesis):
    """Every packet between the nodes is late, and some overtake others."""

    name = "delay"
    faults = ("F6",)
    summary = "packets between the nodes are late and out of order"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        nodes = sorted(context.cluster.nodes)
        ms, jitter_ms = draw.randint(*DELAY_MS), draw.randint(*JITTER_MS)
        for node in nodes:
            others = [name for name in nodes if name != node]
            await network.delay([node], ms, min(ms, jitter_ms), to=others)
        return Injected(f"{ms} ms late, plus or minus {min(ms, jitter_ms)}", tuple(nodes))


class Loss(NetworkNemesis):
    """A part of all packets is lost."""

    name = "loss"
    faults = ("F6",)
    summary = "a part of all packets is lost"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        percent = draw.randint(*LOSS_PERCENT)
        nodes = sorted(context.cluster.nodes)
        await network.lose(nodes, percent)
        return Injected(f"{percent} % of what they send is lost", tuple(nodes))


class LowBandwidth(NetworkNemesis):
    """The leader's bandwidth is low."""

    name = "low-bandwidth"
    faults = ("F6",)
    summary = "the leader can send a few hundred kilobits a second"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        leader, _ = await self.leader(context)
        kbit = draw.randint(*SLOW_KBIT)
        await network.narrow([leader], kbit)
        return Injected(f"sends {kbit} kbit/s at most", (leader,))


class SlowFollower(NetworkNemesis):
    """One follower is far away: the others must not wait for it."""

    name = "slow-follower"
    faults = ("F6",)
    summary = "one follower is hundreds of milliseconds away"

    async def cut(self, context: RunContext, network: Network, draw: random.Random) -> Injected:
        _, others = await self.leader(context)
        node, ms = draw.choice(others), draw.randint(*LAG_MS)
        await network.delay([node], ms, to=[n for n in context.cluster.nodes if n != node])
        return Injected(f"{ms} ms away", (node,))
