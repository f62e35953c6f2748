"""F17, F19: leaders that hand over, nodes that flap, one restart after the other."""

from __future__ import annotations

import asyncio
import random

import grpc
from grpc import aio

from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc

HANDOVERS = 6
HANDOVER_S = 10.0
BETWEEN_S = (0.1, 0.6)
FLAPS = 8
FLAP_S = (0.05, 0.5)
_FINE = frozenset(
    {
        # There is no leader now, or the target lags: refused at once, and nothing has changed.
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
    }
)


async def hand_over(context: RunContext, target: str) -> bool:
    """Ask for a transfer of leadership; whether it succeeded. A hang is reported as a violation."""
    asked = await context.cluster.leader_now() or target
    stub = cluster_service_pb2_grpc.ClusterServiceStub(context.cluster.channel(asked))
    request = cluster_service_pb2.TransferLeadershipRequest(target_node_id=target)
    try:
        await stub.TransferLeadership(request, timeout=HANDOVER_S)
    except aio.AioRpcError as error:
        if error.code() not in _FINE:
            context.accuse("F17", f"a transfer to {target} ended with {error.code().name}")
        return False
    return True


class HandOvers(Nemesis):
    """One transfer after the other, to any node, while calls go on."""

    name = "hand-overs"
    faults = ("F17",)
    summary = "leadership is handed from node to node under load"
    hold_s = (0.0, 0.2)
    alone = True

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        done = 0
        for _ in range(HANDOVERS):
            leader = (await context.cluster.await_leader(self.within_s)).node_id
            target = draw.choice([name for name in context.cluster.nodes if name != leader])
            with context.stage(self.name, "asked to lead", target):
                done += await hand_over(context, target)
            await asyncio.sleep(draw.uniform(*BETWEEN_S))
        if not done:
            context.accuse("F17", f"none of {HANDOVERS} transfers of leadership was carried out")
        return Injected(f"leadership handed over {done} times")


class Flapping(Nemesis):
    """A node that freezes and thaws many times: terms must not rise with each change."""

    name = "flapping"
    faults = ("F17",)
    summary = "a node falls silent and comes back, many times in a row"
    # A container cannot be frozen and thawed many times a second: the engine says so, now and then.
    transports = frozenset({Transport.PROCESSES, Transport.NETLAB})
    hold_s = (0.0, 0.2)

    def __init__(self) -> None:
        self._paused: list[str] = []

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        node = draw.choice(sorted(context.cluster.nodes))
        for _ in range(FLAPS):
            self._paused = [node]
            await context.cluster.freeze(node)
            await asyncio.sleep(draw.uniform(*FLAP_S))
            await self.heal(context)
            await asyncio.sleep(draw.uniform(*FLAP_S))
        return Injected(f"paused {FLAPS} times", (node,))

    async def heal(self, context: RunContext) -> None:
        paused, self._paused = self._paused, []
        await context.cluster.thaw(*paused)


class RollingRestart(Nemesis):
    """Each node ends as it was asked to and comes back, the leader last, after a transfer."""

    name = "rolling-restart"
    faults = ("F19",)
    summary = "every node is stopped with SIGTERM and started again, one after the other"
    hold_s = (0.0, 0.2)
    alone = True

    def __init__(self) -> None:
        self._stopped: list[str] = []

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        cluster = context.cluster
        leader = (await cluster.await_leader(self.within_s)).node_id
        followers = draw.sample(sorted(set(cluster.nodes) - {leader}), len(cluster.nodes) - 1)
        for node in (*followers, leader):
            with context.stage(self.name, "stopped and started", node):
                # In half of the cases the leader hands over by command first; otherwise SIGTERM
                # must do it.
                if node == leader and draw.choice((True, False)):
                    await hand_over(context, followers[0])
                self._stopped = [node]
                code = await cluster.shut_down(node)
                if code != 0:
                    context.accuse("F19", f"{node} was asked to stop and ended with {code}")
                await self.heal(context)
                await cluster.await_caught_up(cluster.nodes, self.within_s)
        return Injected("restarted, one by one", (*followers, leader))

    async def heal(self, context: RunContext) -> None:
        stopped, self._stopped = self._stopped, []
        await context.cluster.revive(*stopped)
