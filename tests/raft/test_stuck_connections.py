"""Connections on which nothing gets through any more, between nodes that could reach each other."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.puppet import Stage, on_stage
from tq.internal.v1 import peer_pb2


@pytest.mark.parametrize("seed", range(10))
def test_a_connection_that_is_stuck_between_those_who_are_left_delays_no_election(
    seed: int,
) -> None:
    async def scenario(cluster: Cluster) -> float:
        await cluster.start()
        silent = await cluster.await_leader()
        await asyncio.sleep(0.5)
        one, other = (host.name for host in cluster.hosts.values() if host is not silent)
        cluster.network.get_stuck(one, other)
        began_s = cluster.loop.time()
        silent.pause()
        await cluster.until("another leads", lambda: cluster.leader() not in {None, silent})
        return cluster.loop.time() - began_s

    assert simulate(scenario, seed=f"stuck {seed}") < 1.6


def test_a_peer_that_lets_a_request_for_a_pre_vote_lie_is_met_on_a_new_connection() -> None:
    async def scenario(stage: Stage) -> None:
        mute = stage.puppets["n3"]
        await mute.hears("pre_vote_request")
        asked_s = stage.loop.time()

        await mute.hears("hello")
        again = await mute.hears("pre_vote_request")

        assert stage.loop.time() - asked_s < 0.5
        assert again.pre_vote_request.attempt == 2

    on_stage(scenario)


def test_a_peer_that_refuses_a_pre_vote_keeps_its_connection() -> None:
    async def scenario(stage: Stage) -> None:
        grants_nothing = stage.puppets["n3"]
        began_s = stage.loop.time()
        while stage.loop.time() - began_s < 2.0:
            request = (await grants_nothing.hears("pre_vote_request")).pre_vote_request
            refusal = peer_pb2.PreVoteReply(attempt=request.attempt, granted=False)
            grants_nothing.say(pre_vote_reply=refusal)
            hellos = [message for message in grants_nothing.heard if message.HasField("hello")]
            assert hellos == []

    on_stage(scenario)
