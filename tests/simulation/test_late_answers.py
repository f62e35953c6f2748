"""The longest of the steps that a story takes ends as all others do: the network is as before."""

from __future__ import annotations

import asyncio

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.late_answers import FIRST_LEADERSHIP_S, FOR_S, LateAnswers
from tests.simulation.play.runs import simulate
from tests.simulation.world.host import Machine


def test_late_answers_close_no_way_once_they_are_over() -> None:
    """The old leader and its heir find each other again only then, though the heir had won."""

    async def scenario(cluster: Cluster) -> bool:
        cluster.load.on = False
        await cluster.start()
        leader = await cluster.await_leader()
        answers = LateAnswers(cluster, cluster.draw, leader, _hand_over_nothing)
        answers.begin()
        await asyncio.sleep(FIRST_LEADERSHIP_S[1])
        heir = answers.heir
        cluster.network.block(heir.name, leader.name)
        await asyncio.sleep(FOR_S[1])
        cluster.network.unblock(heir.name, leader.name)
        await asyncio.sleep(2.0)

        assert not cluster.network.conditions.blocked
        assert not any(host.paused for host in cluster.machines)
        return any(f"what {heir.name} sends reaches" in line for line in cluster.load.trace)

    heirs_won = [simulate(scenario, seed=f"late answers {n}") for n in range(4)]
    assert any(heirs_won)


def _hand_over_nothing(_leader: Machine, _heir: str) -> None:
    """No leader hands over here."""
