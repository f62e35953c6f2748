"""How a cluster forms, and which nodes stay outside."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from tests.raft.modelled_disk import ModelledDisk
from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.host import Host, Identity
from tests.simulation.world.state import StateDisk
from tq.internal.v1 import peer_pb2
from tq_cluster.clock import SystemClock
from tq_cluster.errors import FatalError
from tq_cluster.raft.formation import Formation
from tq_cluster.raft.identity import MemberList, Origin
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.log_api import Role
from tq_cluster.raft.membership import MemberDisks
from tq_cluster.raft.syncer import InlineSyncer


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
        cluster.load.on = False
        await cluster.start()
        leader = await cluster.await_leader()
        index = await cluster.put(b"before the loss")
        await cluster.until(
            "every disk has it",
            lambda: all(host.journal.durable_last_index() >= index for host in cluster.machines),
        )
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


def _no_matter(error: FatalError) -> None:
    raise error


def an_empty_journal() -> Journal:
    return Journal(ModelledDisk(), InlineSyncer(), on_fatal=_no_matter)


@dataclass
class Outlook:
    """One empty node's formation, told by the test what its peers say."""

    node_id: str
    pristine: bool = True

    def __post_init__(self) -> None:
        self.identity = Identity(self.node_id, f"disk of {self.node_id}")
        self.formation = Formation(
            identity=self.identity,
            member_ids=("n1", "n2", "n3"),
            pristine=lambda: self.pristine,
            cluster_version=lambda: 0,
            member_disks=MemberDisks(an_empty_journal(), lambda: 1, lambda: None),
            clock=SystemClock(),
            draw=random.Random(1),
            news=lambda: None,
        )

    def hears(
        self,
        name: str,
        *,
        cluster_id: str = "",
        pristine: bool = True,
        recorded: dict[str, str] | None = None,
    ) -> None:
        """Without ``recorded`` the peer is of the first version, or has none yet."""
        hello = peer_pb2.Hello(
            format=1, node_id=name, cluster_id=cluster_id, pristine=pristine, incarnation=name
        )
        if recorded is not None:
            hello.recorded.CopyFrom(peer_pb2.MemberList(incarnations=recorded))
        self.formation.on_hello(name, hello)


def test_the_common_version_is_not_known_before_every_member_has_said_its_own() -> None:
    one = Outlook("n1")

    one.hears("n2")
    assert one.formation.common_version() is None
    one.hears("n3")
    assert one.formation.common_version() == 0


def test_an_id_that_was_drawn_before_a_crash_is_not_drawn_again() -> None:
    """The lowest member lost its disk after another had written the cluster's id down."""
    lowest = Outlook("n1")

    lowest.hears("n2", cluster_id="drawn before")
    lowest.hears("n3")

    before_n3_wrote_it_down = lowest.formation.formed
    lowest.hears("n3", cluster_id="drawn before")

    assert lowest.identity.cluster_id == "drawn before"
    assert (before_n3_wrote_it_down, lowest.formation.formed) == (False, True)


def test_all_have_written_the_same_list_down_before_any_of_them_votes() -> None:
    async def scenario(cluster: Cluster) -> None:
        hosts = cluster.hosts.values()
        lists: list[object] = []
        for host in hosts:
            host.on_lead.append(lambda _: lists.extend(each.identity.members for each in hosts))

        await cluster.start()
        await cluster.await_leader()

        disks = {name: f"disk of {name}" for name in cluster.hosts}
        assert lists == [MemberList(incarnations=disks)] * 3

    simulate(scenario, seed="listed")


def test_a_member_that_lost_its_disk_while_the_cluster_formed_is_listed_with_its_new_one() -> None:
    """No member has voted yet, since none has seen that all wrote the same list down."""
    lowest, other = Outlook("n1"), Outlook("n2")
    other.hears("n1")
    other.hears("n3")
    other.hears("n1", cluster_id="drawn", recorded={"n1": "n1", "n2": "disk of n2", "n3": "n3"})

    lowest.hears("n2", cluster_id="drawn", recorded={"n1": "n1", "n2": "n2", "n3": "n3"})
    lowest.hears("n3")

    assert other.identity.members == MemberList(
        incarnations={"n1": "n1", "n2": "disk of n2", "n3": "n3"}
    )
    assert (lowest.identity.cluster_id, lowest.identity.members) == (
        "drawn",
        MemberList(incarnations={"n1": "disk of n1", "n2": "n2", "n3": "n3"}),
    )
    assert not lowest.formation.formed, "n2 has another list"


def test_who_may_stand_for_election_no_longer_says_that_it_has_nothing_to_lose() -> None:
    one = Outlook("n1")
    one.hears("n2")
    one.hears("n3")
    listed = {"n1": "disk of n1", "n2": "n2", "n3": "n3"}
    drawn = one.identity.cluster_id
    assert drawn is not None
    before = one.formation.own_hello().pristine

    one.hears("n2", cluster_id=drawn, recorded=listed)
    one.hears("n3", cluster_id=drawn, recorded=listed)

    assert one.formation.formed
    assert (before, one.formation.own_hello().pristine) == (True, False)


def test_a_node_without_a_list_takes_no_part_until_a_peer_says_who_the_members_are() -> None:
    """The first version wrote none down, and its state, which holds it, is lost."""
    one = Outlook("n1", pristine=False)
    one.identity.cluster_id = "theirs"
    one.hears("n2", cluster_id="theirs")
    one.hears("n3", cluster_id="theirs")

    without = one.formation.formed, one.formation.message
    listed = {"n1": "disk of n1", "n2": "n2", "n3": "n3"}
    one.hears("n3", cluster_id="theirs", pristine=False, recorded=listed)

    assert without == (
        False,
        "waits for a peer that says who the members are: its state is lost",
    )
    assert one.formation.formed
    assert one.identity.members == MemberList(incarnations=listed)


def test_a_list_that_names_another_disk_of_this_node_is_not_taken() -> None:
    one = Outlook("n1", pristine=False)
    one.identity.cluster_id = "theirs"

    listed = {"n1": "the disk that was replaced", "n2": "n2", "n3": "n3"}
    one.hears("n3", cluster_id="theirs", pristine=False, recorded=listed)

    assert one.identity.members is None
    assert not one.formation.formed


def test_an_empty_node_does_not_slip_into_a_cluster_that_exists() -> None:
    newcomer = Outlook("n2")

    newcomer.hears("n3", cluster_id="theirs", pristine=False)
    newcomer.hears("n1", cluster_id="theirs")

    assert newcomer.formation.stranger
    assert newcomer.identity.cluster_id is None


def test_a_restored_node_beside_one_of_the_old_cluster_says_which_has_to_go() -> None:
    """It is no empty disk: replace-node would never take it in."""
    restored = Outlook("n1")
    restored.identity.origin = Origin(backup_id="b-1", index=7, term=1)

    restored.hears("n3", cluster_id="the old one", pristine=False)

    assert "n1 was restored from backup b-1 at entry 7" in restored.formation.message
    assert "if that one is to go on, empty this one's data directory" in restored.formation.message
    assert "replace-node" not in restored.formation.message


def test_only_the_lowest_member_draws_an_id() -> None:
    other = Outlook("n3")

    other.hears("n1")
    other.hears("n2")
    before_n1_did = other.identity.cluster_id
    other.hears("n1", cluster_id="drawn by n1")

    assert (before_n1_did, other.identity.cluster_id) == (None, "drawn by n1")
    assert not other.formation.formed, "n2 has not written it down"


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
