"""A snapshot on its way, while entries go on being written and the journal goes on being cut."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.host import Host
from tests.simulation.world.state import StateDisk
from tq_cluster.raft.settings import RaftSettings

SLOW = RaftSettings(snapshot_chunk_bytes=100, compact_every_s=0.05)
"""Cut far more often than a snapshot of these sizes takes."""


async def _miss_the_beginning(cluster: Cluster) -> Host:
    """Have a follower that needs a snapshot: it was away while the journal was cut."""
    cluster.load.on = False
    await cluster.start()
    await cluster.await_leader()
    away = cluster.followers()[0]
    away.kill()
    for number in range(500):
        await cluster.put((b"entry %d " % number).ljust(300, b"."))
        if (await cluster.await_leader()).journal.first_index >= 20:
            return away
    raise AssertionError(f"nothing was compacted in 500 entries\n{cluster.describe()}")


def _installs(host: Host, times: int) -> bool:
    return host.states.installs >= times


async def _write_until(cluster: Cluster, what: str, host: Host, installs: int) -> int:
    """Write large entries until the host has installed that many snapshots; how many entries."""
    for written in range(3_000):
        if _installs(host, installs):
            return written
        await cluster.put((b"meanwhile %d " % written).ljust(1_500, b"."), within_s=20.0)
    raise AssertionError(f"{what} did not come about in 3,000 entries\n{cluster.describe()}")


def test_the_journal_is_kept_for_a_follower_that_is_being_sent_a_snapshot() -> None:
    """Else the transfer would be overtaken by the next cut, and begin again for ever."""

    async def scenario(cluster: Cluster) -> None:
        away = await _miss_the_beginning(cluster)
        leader = await cluster.await_leader()
        cluster.network.conditions.latency_s = (0.01, 0.02)
        await away.start()

        written = await _write_until(cluster, "a snapshot", away, 1)
        held_bytes = leader.journal.size_bytes
        await cluster.settle()

        assert written * 1_500 > 3 * 6_000, "too little was written to overtake the transfer"
        assert held_bytes > 2 * 6_000
        assert away.states.installs == 1
        await cluster.put(b"and then")
        await cluster.until(
            "the journal is cut again", lambda: leader.journal.size_bytes < held_bytes / 2
        )

    simulate(scenario, seed="overtaken", settings=SLOW)


@pytest.mark.slow
def test_a_journal_at_its_limit_is_cut_whoever_needs_it() -> None:
    """A follower that never finishes must not fill the leader's disk."""
    limit = 12_000

    async def scenario(cluster: Cluster) -> None:
        away = await _miss_the_beginning(cluster)
        leader = await cluster.await_leader()
        cluster.network.conditions.latency_s = (0.01, 0.02)
        await away.start()

        largest = 0
        for number in range(150):
            await cluster.put((b"meanwhile %d " % number).ljust(1_500, b"."), within_s=20.0)
            largest = max(largest, leader.journal.size_bytes)
        await cluster.settle()

        assert limit < largest < 3 * limit
        assert away.states.installs >= 1

    settings = RaftSettings(
        snapshot_chunk_bytes=100, compact_every_s=0.05, kept_journal_bytes=limit
    )
    simulate(scenario, seed="at the limit", settings=settings)


def test_leadership_is_not_handed_to_a_node_that_waits_for_a_snapshot() -> None:
    """It holds every entry, and could apply none."""

    async def scenario(cluster: Cluster) -> None:
        hurt = await _miss_the_beginning(cluster)
        leader = await cluster.await_leader()
        await hurt.start()
        await cluster.settle()
        await cluster.until("it has cut its journal", lambda: hurt.journal.first_index > 20)
        leader.states.make = _never  # type: ignore[method-assign]
        hurt.kill()
        hurt.state_disk = StateDisk()
        await hurt.start()
        await cluster.until(
            "it says so", lambda: "waits for a peer's snapshot" in hurt.replica.status().message
        )

        def held() -> int:
            return leader.replica.status().peers[hurt.name].match_index

        await cluster.until("it has all entries", lambda: held() == leader.journal.last_index)

        with pytest.raises(TimeoutError):
            await leader.replica.transfer_leadership(hurt.name, 2.0)
        heir = await leader.replica.transfer_leadership(None, 5.0)

        assert heir not in {hurt.name, leader.name}

    simulate(scenario, seed="unfit", checked=False)


def _never(made: object) -> None:
    """Make no snapshot."""


@pytest.mark.parametrize("seed", range(4))
def test_a_second_snapshot_follows_the_first(seed: int) -> None:
    """Twice in a row, the first hardly installed: nothing is missing in between."""

    async def scenario(cluster: Cluster) -> None:
        away = await _miss_the_beginning(cluster)
        leader = await cluster.await_leader()
        await away.start()
        await cluster.until("the first is installed", lambda: _installs(away, 1))
        for name in cluster.hosts:
            if name != away.name:
                cluster.network.block(away.name, name)
                cluster.network.block(name, away.name)
        await asyncio.sleep(cluster.draw.uniform(0.0, 0.05))
        await cluster.until(
            "it is given up",
            lambda: not leader.replica.status().peers[away.name].connected,
        )
        behind = away.journal.last_index
        for number in range(300):
            await cluster.put((b"again %d " % number).ljust(300, b"."))
            if leader.journal.first_index > behind:
                break
        cluster.network.heal()
        await cluster.until("the second is installed", lambda: _installs(away, 2))

        await cluster.settle()

    simulate(scenario, seed=f"twice {seed}", settings=SLOW)
