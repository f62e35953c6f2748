"""A member's disk is lost, and an empty one takes its place."""

from __future__ import annotations

import asyncio

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.host import Host
from tq_cluster.raft.log_api import Role
from tq_cluster.raft.membership import marked, members_in


async def formed(cluster: Cluster) -> Host:
    """Start the cluster, have its members written down, and return the leader."""
    cluster.load.on = False
    await cluster.start()
    leader = await cluster.await_leader()
    membership = leader.replica.formation()
    assert membership is not None
    await cluster.put(marked(b"", membership[1]))
    await cluster.until(
        "all know who the members are",
        lambda: all(host.machine.members for host in cluster.machines),
    )
    return leader


async def lose_disk(cluster: Cluster, host: Host) -> None:
    """Have it start again with an empty disk, and wait until the leader has heard of it."""
    host.keep_old_disk()
    host.lose_disk()
    host.lost_upto = max(cluster.checker.acked)
    host.begin()
    leader = await cluster.await_leader()
    await cluster.until(
        "the empty node introduces itself",
        lambda: leader.replica.status().strangers == {host.name: host.identity.incarnation},
    )


def replacement_of(leader: Host, host: Host) -> bytes:
    """The entry that has the host's present disk take its place."""
    assert leader.machine.members is not None
    return marked(b"", {**leader.machine.members, host.name: host.identity.incarnation})


def cut_off(cluster: Cluster, host: Host) -> None:
    for other in cluster.machines:
        if other is not host:
            cluster.network.block(host.name, other.name)
            cluster.network.block(other.name, host.name)


async def caught_up(cluster: Cluster, host: Host) -> None:
    await cluster.until(
        f"{host.name} has everything", lambda: cluster.checker.holds_all(host), within_s=20.0
    )
    host.lost_upto = 0


def test_an_entry_that_changes_the_members_is_told_by_its_first_byte() -> None:
    members = {"n1": "one", "n2": "two"}

    assert members_in(marked(b"\x08\x01\x10\x05", members)) == members
    assert members_in(b"\x08\x01\x10\x05") is None
    assert members_in(b"") is None


def test_a_replaced_node_holds_everything_and_takes_part_again() -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = await formed(cluster)
        await cluster.put(b"before the loss")
        host, other = cluster.followers()
        await lose_disk(cluster, host)
        await cluster.put(b"between")
        await cluster.put(replacement_of(leader, host))
        await caught_up(cluster, host)

        other.kill()
        await cluster.put(b"on the new disk")
        leader.kill()
        await other.start()

        await cluster.put(b"led by one of the two that are left")
        assert b"before the loss" in [entry for _, _, entry in host.machine.entries]
        await cluster.settle()

    simulate(scenario, seed="replaced")


def test_a_new_disk_counts_for_nothing_until_a_majority_of_the_others_holds_the_entry() -> None:
    """It could be needed to acknowledge what only the lost disk had acknowledged before."""

    async def scenario(cluster: Cluster) -> None:
        leader = await formed(cluster)
        host, other = cluster.followers()
        await lose_disk(cluster, host)
        cut_off(cluster, other)
        index = leader.journal.last_index + 1

        cluster.propose(leader, replacement_of(leader, host))
        await cluster.until("it gives up", lambda: cluster.leader() is None)
        await asyncio.sleep(3.0)

        assert leader.machine.applied.index < index
        assert host.replica.status().role is Role.STRANGER
        assert host.journal.last_index == 1
        cluster.network.heal()
        await cluster.until(
            "it is taken in, or can be", lambda: cluster.leader() is not None, within_s=20.0
        )

    simulate(scenario, seed="too early")


def test_the_replaced_disk_is_left_alone_by_all_who_hold_the_entry() -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = await formed(cluster)
        host, other = cluster.followers()
        members = dict(leader.machine.members or {})

        await cluster.put(marked(b"", {**members, host.name: "a disk that is yet to come"}))

        for holder in (leader, other):
            assert not holder.replica.status().peers[host.name].connected
        await cluster.until(
            "it knows", lambda: host.replica.status().role is Role.STRANGER, within_s=5.0
        )
        term, entries = leader.replica.status().term, host.journal.last_index
        await cluster.put(b"without it")
        await asyncio.sleep(3.0)
        assert leader.replica.status().term == term, "it disturbs nobody"
        assert host.journal.last_index == entries

    simulate(scenario, seed="left alone", checked=False)


def test_an_old_disk_that_comes_back_is_refused() -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = await formed(cluster)
        host = cluster.followers()[0]
        await lose_disk(cluster, host)
        await cluster.put(replacement_of(leader, host))
        await caught_up(cluster, host)

        host.swap_disks()
        host.begin()
        await cluster.until(
            "it is refused", lambda: host.replica.status().role is Role.STRANGER, within_s=5.0
        )

        assert "another disk" in host.replica.status().message

    simulate(scenario, seed="comes back", checked=False)


def test_a_node_that_is_behind_follows_a_new_disk_that_leads() -> None:
    """No other node sends it the entry: its peers tell it who the members are."""

    async def scenario(cluster: Cluster) -> None:
        leader = await formed(cluster)
        behind, host = cluster.followers()[:2]
        behind.kill()
        await lose_disk(cluster, host)
        await cluster.put(replacement_of(leader, host))
        await caught_up(cluster, host)
        await leader.replica.transfer_leadership(host.name, 5.0)

        await behind.start()

        await cluster.until(
            "it follows the new disk",
            lambda: behind.replica.status().leader_id == host.name,
            within_s=5.0,
        )
        await cluster.settle()

    simulate(scenario, seed="behind", size=5)


def test_a_newcomer_votes_once_its_state_names_it() -> None:
    """What its vote could elect before that, it cannot know."""

    async def scenario(cluster: Cluster) -> None:
        leader = await formed(cluster)
        host, other = cluster.followers()
        await lose_disk(cluster, host)
        host.replica._engine._applier._held = lambda: True
        await cluster.put(replacement_of(leader, host))
        await cluster.until(
            "it has all entries", lambda: host.journal.last_index == leader.journal.last_index
        )
        leader.kill()

        await asyncio.sleep(5.0)

        assert other.replica.status().role is not Role.LEADER
        assert host.replica.status().role is not Role.LEADER
        await leader.start()
        await cluster.await_leader()

    simulate(scenario, seed="newcomer", checked=False)


def test_a_member_replaced_twice_in_a_row_is_the_last_one() -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = await formed(cluster)
        host = cluster.followers()[0]
        for _ in range(2):
            await lose_disk(cluster, host)
            await cluster.put(replacement_of(leader, host))
        await caught_up(cluster, host)

        assert (leader.machine.members or {})[host.name] == f"disk 3 of {host.name}"
        await cluster.settle()

    simulate(scenario, seed="twice")
