"""A data directory that was copied: two processes under one name, and only one of them counts."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Sequence

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.host import Host
from tests.simulation.world.puppet import Puppet, Stage, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.raft.bounds import RUNS_MAX
from tq_cluster.raft.copies import DISKS_MAX, EARLIER_MAX, Copies
from tq_cluster.raft.settings import RaftSettings


def hello(run: str, disk: str = "disk of n1") -> peer_pb2.Hello:
    return peer_pb2.Hello(node_id="n1", incarnation=disk, run=run)


def with_runs(stage: Stage, *runs: str) -> Sequence[Puppet]:
    """Puppets that are processes on one disk of n1, as many as there are runs."""
    puppets = [Puppet(stage, "n1") for _ in runs]
    for puppet, run in zip(puppets, runs, strict=True):
        puppet.introduction.run = run
    return puppets


def test_a_process_that_is_started_again_or_connects_again_is_no_copy() -> None:
    copies = Copies("own")

    for run in ("first", "first", "second", "second", "third"):
        assert not copies.came_back(hello(run))
        copies.welcomed(hello(run))

    assert copies.came_back(hello("second"))
    assert not copies.came_back(hello("second", disk="another disk"))
    assert not copies.came_back(hello("")), "a broker of an earlier version says no run"


def test_what_is_remembered_of_runs_is_bounded() -> None:
    copies = Copies("own")

    for number in range(1_000):
        copies.welcomed(hello(f"run {number}"))
        copies.welcomed(hello("run", disk=f"disk {number}"))
        copies.bar([f"barred {number}"])
    copies.bar(["x" * 1_000])
    copies.bar(f"many {number}" for number in range(1_000))

    assert max(len(runs) for runs in copies._runs.values()) <= EARLIER_MAX
    assert len(copies._runs) <= DISKS_MAX
    assert len(copies.barred) == RUNS_MAX
    assert max(map(len, copies.barred)) < 32


def test_the_one_that_comes_back_after_the_other_is_refused_and_all_peers_are_told() -> None:
    async def scenario(stage: Stage) -> None:
        first, second = with_runs(stage, "first", "second")
        stage.dial(first)
        await first.hears("hello")
        stage.dial(second)
        await second.hears("hello")
        await stage.until("the first one is cut off", lambda: not first.connected)

        stage.dial(first)
        refusal = (await first.hears("refusal")).refusal

        assert "n1 runs twice: another process on the same disk (disk of n1)" in refusal.message
        assert "one of their data directories is a copy" in refusal.message
        assert second.connected
        assert "n1: refused: n1 runs twice" in stage.host.replica.status().message
        told: list[str] = []
        while not told:
            told = list((await stage.puppets["n3"].hears("hello")).hello.barred_runs)
        assert told == ["first"]

    on_stage(scenario)


def test_a_run_that_another_peer_has_seen_come_back_is_parted_with() -> None:
    """Each of the two was connected with another peer: both peers come to talk to one of them."""

    async def scenario(stage: Stage) -> None:
        [original] = with_runs(stage, "original")
        stage.dial(original)
        await original.hears("hello")
        n3 = stage.puppets["n3"]
        n3.introduction.barred_runs.append("original")
        n3.say(hello=n3.introduction)
        await stage.until("it is cut off", lambda: not original.connected)

        stage.dial(original)
        refusal = (await original.hears("refusal")).refusal

        assert "n1 runs twice" in refusal.message
        assert not stage.host.replica.status().peers["n1"].connected

    on_stage(scenario)


def copied(cluster: Cluster, host: Host, address: str) -> Host:
    """A machine with a copy of the host's disk, whose file gives this machine's own address."""
    twin = Host(
        name=host.name,
        members={**host.file, host.name: address},
        loop=cluster.loop,
        network=cluster.network,
        settings=RaftSettings(),
        seed="twin",
    )
    twin.disk = host.disk.power_cut(random.Random(1))
    twin.state_disk = copy.deepcopy(host.state_disk)
    twin.identity = copy.deepcopy(host.identity)
    twin.on_death = lambda *_: None
    return twin


def test_of_a_member_and_its_copy_one_takes_part_and_both_sides_are_told() -> None:
    """n2 calls n3 and is called by n1, so each of the two would be somebody's peer."""

    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        await cluster.put(b"before")
        n1, n2, n3 = cluster.machines
        await cluster.until(
            "all have it", lambda: len({host.machine.applied for host in cluster.machines}) == 1
        )
        twin = copied(cluster, n2, "elsewhere:7000")
        await twin.start()

        def connected(host: Host) -> bool:
            return any(peer.connected for peer in host.replica.status().peers.values())

        await cluster.until("the original is left alone", lambda: not connected(n2))
        await asyncio.sleep(3.0)

        assert not connected(n2)
        assert "n2 runs twice" in n2.replica.status().message
        assert all("n2 runs twice" in host.replica.status().message for host in (n1, n3))
        assert cluster.leader() in {n1, n3}
        twin.kill()
        n2.kill()
        await n2.start()
        await cluster.put(b"after")
        await cluster.settle()

    simulate(scenario, seed="copied")
