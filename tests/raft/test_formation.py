"""How a cluster comes to be, and who stays outside."""

from __future__ import annotations

import asyncio

import pytest

from tests.raft.modelled_disk import ModelledDisk
from tests.simulation.cluster import Cluster
from tests.simulation.host import Host, Identity
from tests.simulation.runs import simulate
from tests.simulation.state import StateDisk
from tq_cluster.raft.door import Role


def wipe(host: Host) -> None:
    """Its data directory is gone; the next start makes a new one."""
    host.disk = ModelledDisk()
    host.state_disk = StateDisk()
    host.identity = Identity(host.name, f"new disk of {host.name}")


def test_nothing_is_formed_while_one_member_is_missing() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in ("n1", "n3"):
            await cluster.hosts[name].start()
        await asyncio.sleep(5.0)
        for name in ("n1", "n3"):
            status = cluster.hosts[name].replica.status()
            assert status.role is Role.FORMING
            assert status.message == "waits to form a cluster: no answer from n2"
            assert cluster.hosts[name].identity.cluster_id is None

        await cluster.hosts["n2"].start()
        await cluster.await_leader(within_s=2.0)

        assert len({host.identity.cluster_id for host in cluster.hosts.values()}) == 1

    simulate(scenario, seed="one missing")


@pytest.mark.parametrize("seed", range(8))
def test_crashes_while_forming_leave_one_cluster(seed: int) -> None:
    """Some have written the cluster's id down and some have not: they still find each other."""

    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        for attempt in range(5):
            for host in cluster.hosts.values():
                if not host.up:
                    await host.start()
            await asyncio.sleep(cluster.draw.uniform(0.0, 0.01))
            for host in cluster.hosts.values():
                if host.up and cluster.draw.random() < 0.6:
                    host.kill()
            if any(host.identity.cluster_id for host in cluster.hosts.values()):
                cluster.note(f"some are named after attempt {attempt}")

        await cluster.settle()

        assert len({host.identity.cluster_id for host in cluster.hosts.values()}) == 1

    simulate(scenario, seed=f"forming {seed}")


def test_the_first_leader_knows_who_forms_the_cluster() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.await_leader()

        membership = leader.replica.formation()

        assert membership is not None
        assert membership[0] == leader.identity.cluster_id
        assert membership[1] == {name: f"disk of {name}" for name in cluster.hosts}

    simulate(scenario, seed="who forms")


def test_a_wiped_node_stays_a_stranger_and_says_so() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.await_leader()
        await cluster.put(b"before the loss")
        wiped = cluster.followers()[0]
        wiped.kill()
        wipe(wiped)
        # Its old self still counts in the checker: what it held is gone, and a majority has it.
        await wiped.start()
        await cluster.until(
            "it knows", lambda: wiped.replica.status().role is Role.STRANGER, within_s=3.0
        )
        await cluster.put(b"after the loss")

        assert "it stays a stranger" in wiped.replica.status().message
        assert wiped.machine.entries == [(1, 0, b"")]
        assert not leader.replica.status().peers[wiped.name].connected
        assert f"{wiped.name} is empty" in leader.replica.status().message

    simulate(scenario, seed="wiped")


def test_two_wiped_nodes_form_no_second_cluster_beside_the_one_that_remembers() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        survivor = await cluster.await_leader()
        wiped = cluster.followers()
        for host in wiped:
            host.kill()
            wipe(host)
            await host.start()
        await asyncio.sleep(5.0)

        for host in wiped:
            assert host.replica.status().role in {Role.STRANGER, Role.FORMING}
            assert host.identity.cluster_id is None
        assert survivor.replica.decidable() is None

    simulate(scenario, seed="two wiped", checked=False)


def test_a_cluster_of_one_forms_itself() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.put(b"alone")
        host = cluster.hosts["n1"]
        assert await host.replica.confirm() == host.machine.applied
        host.cut_power()
        await host.start()

        await cluster.put(b"still alone")

        assert b"alone" in [entry for _, _, entry in host.machine.entries]

    simulate(scenario, seed="alone", size=1)
