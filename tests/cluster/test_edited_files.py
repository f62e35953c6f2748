"""Three brokers stay a cluster, however an operator edits their files afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chaos.cluster.broker import BrokerProcess
from chaos.cluster.ports import free_addresses
from chaos.cluster.processes import ProcessCluster
from tests.patience import PATIENCE_S
from tests.recovery.test_backup_and_restore import claim, submit
from tests.service.fakes import Stubs, until
from tq.v1 import cluster_service_pb2

pytestmark = pytest.mark.cluster


async def refused(broker: BrokerProcess) -> str:
    """Start it, wait until it has ended, and return what it said."""
    broker.start()
    await until(lambda: broker.exited() is not None, "it refuses to start", within_s=PATIENCE_S)
    code, said = broker.exited(), broker.log_tail()
    broker.kill()
    assert code == 2, said
    assert "Traceback" not in said
    return said


async def test_a_broker_whose_file_names_itself_alone_does_not_lead_alone(tmp_path: Path) -> None:
    async with ProcessCluster(tmp_path) as cluster:
        leader = await cluster.await_leader(within_s=PATIENCE_S)
        alone, other = (name for name in cluster.brokers if name != leader.node_id)
        broker = cluster.brokers[alone]
        await broker.stop()
        broker.write_config([alone])
        said = await refused(broker)
        broker.write_config([alone], single=True)
        meant = await refused(broker)
        # The two that are left are the cluster.
        await submit(Stubs(cluster.channel(other)), "meanwhile", "meanwhile")

        broker.write_config()
        broker.start()
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        [task] = await claim(Stubs(cluster.channel(alone)), 1)

    assert f"the configuration names the members {alone}, but" in said
    assert "is of n1, n2, n3: editing a file changes no members" in said
    assert f"the configuration names the members {alone}, but" in meant
    assert task.spec.task_id == "meanwhile"


@pytest.mark.parametrize(
    "named", [["n1", "n2"], ["n1", "n2", "n3", "n4", "n5"]], ids=["pair", "five"]
)
async def test_brokers_whose_files_name_another_number_do_not_count_by_it(
    tmp_path: Path, named: list[str]
) -> None:
    async with ProcessCluster(tmp_path) as cluster:
        leader = await cluster.await_leader(within_s=PATIENCE_S)
        stubs = Stubs(cluster.channel(leader.node_id))
        await submit(stubs, "before", "before")
        edited = [cluster.brokers[name] for name in ("n1", "n2")]
        for broker in edited:
            await broker.stop()
            broker.write_config(named)
        said = [await refused(broker) for broker in edited]

        for broker in cluster.brokers.values():
            broker.write_config()
        await cluster.start(within_s=PATIENCE_S)
        leader = await cluster.await_leader(within_s=PATIENCE_S)
        [task] = await claim(Stubs(cluster.channel(leader.node_id)), 1)

    names = ", ".join(named)
    assert all(f"the configuration names the members {names}, but" in each for each in said)
    assert task.spec.task_id == "before"


async def test_two_brokers_that_swapped_their_names_are_refused(tmp_path: Path) -> None:
    """The directory says whose it is, and whose the address is its peers say."""
    async with ProcessCluster(tmp_path) as cluster:
        await cluster.await_leader(within_s=PATIENCE_S)
        one, other = cluster.brokers["n1"], cluster.brokers["n2"]
        await one.stop()
        await other.stop()
        one.data_dir, other.data_dir = other.data_dir, one.data_dir
        one.write_config()
        other.write_config()
        said = [await refused(broker) for broker in (one, other)]

    assert "belongs to node n2 of cluster" in said[0]
    assert "this is node n1: give it a data directory of its own" in said[0]
    assert "belongs to node n1 of cluster" in said[1]


async def test_an_address_that_leads_to_another_member_is_said_and_harms_nothing(
    tmp_path: Path,
) -> None:
    async with ProcessCluster(tmp_path) as cluster:
        await cluster.await_leader(within_s=PATIENCE_S)
        broker = cluster.brokers["n1"]
        await broker.stop()
        two, three = cluster.brokers["n2"], cluster.brokers["n3"]
        swapped = {
            "n2": {"raft": three.raft_address, "api": two.address},
            "n3": {"raft": two.raft_address, "api": three.address},
        }
        broker.write_config(addresses=swapped)
        broker.start()

        async def is_said() -> bool | None:
            reply = await Stubs(cluster.channel("n2")).cluster.GetClusterStatus(
                cluster_service_pb2.GetClusterStatusRequest(),
                timeout=PATIENCE_S,
                wait_for_ready=True,
            )
            messages = [node.message for node in reply.nodes]
            return any("was expected at this address" in each for each in messages) or None

        await cluster.await_fact("who was expected", is_said, within_s=PATIENCE_S)
        await submit(Stubs(cluster.channel("n2")), "meanwhile", "meanwhile")
        await broker.stop()
        broker.write_config()
        broker.start()
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)


async def test_a_copy_of_a_brokers_directory_is_told_apart_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    """n2 is called by n1 and calls n3: without more, each of the two would have a peer."""
    async with ProcessCluster(tmp_path) as cluster:
        await cluster.await_leader(within_s=PATIENCE_S)
        original = cluster.brokers["n2"]
        await original.stop()
        shutil.copytree(original.data_dir, tmp_path / "elsewhere" / "n2")
        original.start()
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        raft, api = free_addresses(2)
        members = {
            name: {"raft": broker.raft_address, "api": broker.address}
            for name, broker in cluster.brokers.items()
        }
        members["n2"] = {"raft": raft, "api": api}
        copied = BrokerProcess("n2", tmp_path / "elsewhere", members, setup=original.setup)
        copied.start()
        try:

            async def is_said() -> bool | None:
                reply = await Stubs(cluster.channel("n3")).cluster.GetClusterStatus(
                    cluster_service_pb2.GetClusterStatusRequest(),
                    timeout=PATIENCE_S,
                    wait_for_ready=True,
                )
                return any("n2 runs twice" in node.message for node in reply.nodes) or None

            await cluster.await_fact("that n2 runs twice", is_said, within_s=PATIENCE_S)
            await submit(Stubs(cluster.channel("n1")), "meanwhile", "meanwhile")
        finally:
            copied.kill()
        # What was acknowledged is on the others, whichever of the two counted.
        original.kill()
        leader = await cluster.await_leader(within_s=PATIENCE_S)
        [task] = await claim(Stubs(cluster.channel(leader.node_id)), 1)

    assert task.spec.task_id == "meanwhile"
