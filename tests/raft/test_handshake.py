"""Who may speak with whom, and what becomes of connections that are not what they should be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.puppet import Puppet, Stage, append, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.raft.log_api import Role


def _wrong_cluster(hello: peer_pb2.Hello) -> None:
    hello.cluster_id = "another"


def _wrong_members(hello: peer_pb2.Hello) -> None:
    hello.member_ids[:] = ["n1", "n2", "n9"]


def _wrong_group(hello: peer_pb2.Hello) -> None:
    hello.group_id = 5


def _wrong_format(hello: peer_pb2.Hello) -> None:
    hello.format = 9


def _other_list(hello: peer_pb2.Hello) -> None:
    disks = {"n1": "disk of n1", "n2": "disk of n2"}
    hello.recorded.CopyFrom(peer_pb2.MemberList(incarnations=disks))


def _other_disks(hello: peer_pb2.Hello) -> None:
    disks = {"n1": "disk of n1", "n2": "disk of n2", "n3": "a copy"}
    hello.recorded.CopyFrom(peer_pb2.MemberList(incarnations=disks))


def _unknown_node(hello: peer_pb2.Hello) -> None:
    hello.node_id = "n7"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_wrong_cluster, "n1 belongs to cluster another, which is not n2's"),
        (_wrong_members, "n1 is configured with members n1, n2, n9, n2 with n1, n2, n3"),
        (
            _other_list,
            "n1 has recorded the members n1, n2, n2 n1, n2, n3, and both the cluster stage",
        ),
        (_wrong_group, "n1 belongs to group 5, not 0"),
        (_wrong_format, "speaks format 9, n2 1"),
        (_unknown_node, "n7 is not among the other members n1, n3"),
    ],
)
def test_a_mismatch_is_refused_and_both_sides_can_read_why(
    spoil: Callable[[peer_pb2.Hello], None], reason: str
) -> None:
    async def scenario(stage: Stage) -> None:
        spoil(stage.puppets["n1"].introduction)
        await stage.start(all_connect=False)

        refusal = (await stage.puppets["n1"].hears("refusal")).refusal

        assert reason in refusal.message
        assert not stage.host.replica.status().peers["n1"].connected
        if spoil is not _unknown_node:
            assert reason in stage.host.replica.status().message

    on_stage(scenario, started=False)


def test_lists_of_one_entry_that_name_different_disks_are_refused() -> None:
    async def scenario(stage: Stage) -> None:
        puppet = Puppet(stage, "n1")
        _other_disks(puppet.introduction)
        stage.dial(puppet)

        refusal = (await puppet.hears("refusal")).refusal

        assert "n1 has recorded other disks as those of n1, n2, n3 than n2 has" in refusal.message

    on_stage(scenario)


def test_a_list_that_a_later_entry_changed_is_no_mismatch() -> None:
    """The peer has applied the replacement of n3, of which this node has not heard yet."""

    async def scenario(stage: Stage) -> None:
        puppet = Puppet(stage, "n1")
        _other_disks(puppet.introduction)
        puppet.introduction.recorded.index = 7
        stage.dial(puppet)

        await puppet.hears("hello")
        await stage.pass_time(0.1)

        assert stage.host.replica.status().peers["n1"].connected

    on_stage(scenario)


def test_a_peer_whose_software_is_older_than_the_clusters_rules_is_refused() -> None:
    async def scenario(stage: Stage) -> None:
        stage.host.cluster_version = 2
        puppet = Puppet(stage, "n1")
        puppet.introduction.cluster_version = 1
        stage.dial(puppet)

        refusal = (await puppet.hears("refusal")).refusal

        assert "n1 runs software of cluster version 1, the cluster is at 2" in refusal.message
        assert "start a newer tq-cluster on n1" in stage.host.replica.status().message

    on_stage(scenario)


def test_the_common_version_is_what_the_oldest_member_can_take_part_in() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].introduction.cluster_version = 1
        stage.puppets["n3"].introduction.cluster_version = CLUSTER_VERSION + 1
        await stage.start()
        assert stage.host.replica.common_version() == 1

        puppet = Puppet(stage, "n1")
        puppet.introduction.cluster_version = CLUSTER_VERSION
        stage.dial(puppet)
        await puppet.hears("hello")
        assert stage.host.replica.common_version() == CLUSTER_VERSION

    on_stage(scenario, started=False)


def test_a_peer_that_comes_back_with_another_disk_is_a_stranger() -> None:
    async def scenario(stage: Stage) -> None:
        puppet = Puppet(stage, "n1")
        puppet.introduction.incarnation = "a new disk"
        stage.dial(puppet)

        refusal = (await puppet.hears("refusal")).refusal

        assert refusal.stranger
        assert "n1 has another disk (a new disk)" in refusal.message

    on_stage(scenario)


def test_an_emptied_peer_is_a_stranger() -> None:
    async def scenario(stage: Stage) -> None:
        puppet = Puppet(stage, "n1")
        puppet.introduction.cluster_id = ""
        puppet.introduction.pristine = True
        stage.dial(puppet)

        refusal = (await puppet.hears("refusal")).refusal

        assert refusal.stranger
        assert (
            "n1 is empty, but its members' cluster exists: it stays a stranger" in refusal.message
        )

    on_stage(scenario)


def test_an_empty_node_among_formed_ones_says_that_it_is_a_stranger() -> None:
    async def scenario(stage: Stage) -> None:
        stage.host.identity.cluster_id = None
        await stage.start(all_connect=False)
        await stage.until("n1 is connected", lambda: stage.puppets["n1"].connected)
        stage.puppets["n1"].say(
            refusal=peer_pb2.Refusal(message="n2 is empty", stranger=True),
        )

        def said() -> str:
            return stage.host.replica.status().message

        await stage.until("it knows", lambda: "n1: n2 is empty" in said())

        assert "neither votes nor acknowledges" in said()
        assert stage.host.replica.status().role is Role.STRANGER

    on_stage(scenario, started=False)


def test_somebody_else_at_a_members_address_is_refused() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n3"].introduction.node_id = "n1"
        await stage.start(all_connect=False)

        refusal = (await stage.puppets["n3"].hears("refusal")).refusal

        assert refusal.message == "n3 was expected at this address, not n1"

    on_stage(scenario, started=False)


@pytest.mark.parametrize("name", ["n1", "n3"])
def test_one_that_wanted_another_member_does_not_end_the_connection_that_it_has(name: str) -> None:
    """Its file gives this node's address for the other's: it calls here every second."""

    async def scenario(stage: Stage) -> None:
        well = stage.puppets[name]
        astray = Puppet(stage, name)
        astray.introduction.dialled = "n3" if name == "n1" else "n4"
        stage.dial(astray)

        refusal = (await astray.hears("refusal")).refusal
        await stage.pass_time(0.1)

        assert (
            refusal.message == f"{astray.introduction.dialled} was expected at this address, not n2"
        )
        assert well.connected
        assert stage.host.replica.status().peers[name].connected

    on_stage(scenario)


def test_one_of_an_earlier_version_that_should_be_called_is_refused_where_it_calls() -> None:
    async def scenario(stage: Stage) -> None:
        astray = Puppet(stage, "n3")
        stage.dial(astray)

        refusal = (await astray.hears("refusal")).refusal

        assert refusal.message == "another was expected at this address, not n2"
        assert stage.puppets["n3"].connected

    on_stage(scenario)


def test_a_file_with_two_addresses_swapped_costs_no_leader_and_no_connection_of_others() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        leader = await cluster.await_leader()
        term = leader.replica.status().term
        for host in cluster.followers():
            right = dict(host.file)
            one, other = (name for name in right if name != host.name)
            host.kill()
            host.file = {**right, one: right[other], other: right[one]}
            await host.start()
            await asyncio.sleep(5.0)
            assert (await cluster.await_leader()).replica.status().term == term

            host.kill()
            host.file = right
            await host.start()
            await cluster.until(
                "all are connected again",
                lambda: all(
                    peer.connected
                    for each in cluster.machines
                    for peer in each.replica.status().peers.values()
                ),
            )

    simulate(scenario, seed="swapped")


def test_a_connection_that_was_replaced_is_never_read_again() -> None:
    async def scenario(stage: Stage) -> None:
        first = stage.puppets["n1"]
        second = Puppet(stage, "n1")
        # On its way when the new connection is made.
        stage.network.get_stuck("n1", "n2")
        first.say(append=append(1, (1, 0), [(1, b"from the old connection")]))
        stage.dial(second)
        await second.hears("hello")
        stage.network.come_loose("n1", "n2")
        await stage.pass_time(0.05)
        assert stage.host.journal.last_index == 1

        second.say(append=append(1, (1, 0), [(1, b"from the new one")]))
        await second.hears("append_reply")

        assert stage.host.journal.entry(2)[0] == b"from the new one"

    on_stage(scenario)


def test_a_damaged_frame_ends_its_connection_and_nothing_else() -> None:
    async def scenario(stage: Stage) -> None:
        puppet = stage.puppets["n3"]
        assert puppet._transport is not None
        puppet._transport.write(b"\x10 this is no frame at all")
        await stage.until("it is cut", lambda: not puppet.connected)
        assert stage.host.up

        await stage.until("it is dialled again", lambda: puppet.connected)

    on_stage(scenario)


def test_a_message_before_its_senders_name_is_not_listened_to() -> None:
    async def scenario(stage: Stage) -> None:
        puppet = stage.puppets["n1"]
        puppet.connection_made = lambda transport: setattr(puppet, "_transport", transport)  # type: ignore[method-assign]  # no hello
        await stage.start(all_connect=False)
        await stage.until("it is connected", lambda: puppet.connected)
        puppet.say(append=append(1, (1, 0), [(1, b"who says so?")]))

        await stage.until("it is cut", lambda: not puppet.connected)

        assert stage.host.journal.last_index == 1

    on_stage(scenario, started=False)


def test_a_peer_that_falls_silent_is_given_up_and_one_that_pings_is_not() -> None:
    async def scenario(stage: Stage) -> None:
        silent, alive = stage.puppets["n1"], stage.puppets["n3"]
        for _ in range(50):
            alive.say(ping=peer_pb2.Ping(wall_ms=1_700_000_060_000))
            await stage.pass_time(0.1)

        peers = stage.host.replica.status().peers

        assert not silent.connected
        assert peers["n3"].connected
        assert peers["n3"].wall_offset_ms is not None
        assert peers["n3"].wall_offset_ms > 40_000

    on_stage(scenario)


def test_a_node_that_slept_does_not_take_its_peers_for_dead() -> None:
    async def scenario(stage: Stage) -> None:
        stage.host.pause()
        await stage.pass_time(30.0)
        for puppet in stage.puppets.values():
            puppet.say(ping=peer_pb2.Ping(wall_ms=1))
        stage.host.resume()
        await stage.pass_time(0.2)

        assert all(peer.connected for peer in stage.host.replica.status().peers.values())

    on_stage(scenario)
