"""What is sent to whom: appends, heartbeats, large entries, snapshots."""

from __future__ import annotations

import asyncio
import zlib

import pytest

from tests.simulation.cluster import Cluster
from tests.simulation.puppet import Puppet, Stage, append, on_stage
from tests.simulation.runs import simulate
from tq.internal.v1 import peer_pb2
from tq_cluster.core.types import AppliedAt
from tq_cluster.raft.door import Role
from tq_cluster.raft.settings import RaftSettings

# ---------------------------------------------------------------------- appends


def test_the_commit_index_rides_on_the_next_entry() -> None:
    """One append an entry and follower, and a heartbeat now and then."""

    async def scenario(cluster: Cluster) -> tuple[int, int]:
        cluster.load.on = False
        await cluster.start()
        leader = await cluster.await_leader()
        sent = 0
        send = leader.replica._engine.peers.send_in_order

        def count(peer_id: str, encoded: list[bytes]) -> None:
            nonlocal sent
            sent += 1
            send(peer_id, encoded)

        leader.replica._engine.peers.send_in_order = count  # type: ignore[method-assign,assignment]
        for number in range(100):
            await cluster.put(b"entry %d" % number)
        return sent, int(cluster.loop.time() / RaftSettings().heartbeat_s) + 1

    sent, heartbeats = simulate(scenario, seed="one append")
    assert sent <= 2 * (100 + heartbeats)


def test_followers_commit_no_further_than_what_was_compared() -> None:
    async def scenario(stage: Stage) -> None:
        tail = [(1, b"perhaps lost")] * 5
        stage.puppets["n1"].say(append=append(1, (1, 0), tail))
        await stage.puppets["n1"].hears("append_reply")

        # Another leader's heartbeat at entry 1; its entries 2 to 9 are others.
        stage.puppets["n3"].say(append=append(2, (1, 0), [], commit_index=9))
        await stage.puppets["n3"].hears("append_reply")
        await stage.pass_time(0.05)

        assert stage.host.machine.applied.index == 1

    on_stage(scenario)


def test_a_follower_that_lags_gets_no_more_than_its_connection_takes() -> None:
    settings = RaftSettings(backlog_bytes=500_000)

    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        leader = await cluster.await_leader()
        slow = cluster.followers()[0]
        cluster.network.block(leader.name, slow.name)
        backlog = 0
        for number in range(60):
            await cluster.put(bytes([8, number]) * 25_000)
            backlog = max(backlog, leader.replica._engine.peers.backlog_bytes(slow.name))
        assert backlog < 500_000 + 2 * settings.append_bytes

        await cluster.settle()

    simulate(scenario, seed="lags", settings=settings)


def test_heartbeats_overtake_a_large_entry_on_a_slow_network() -> None:
    """Ten MiB at two MiB/s take longer than any election timeout, and nobody loses patience."""

    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        leader = await cluster.await_leader()
        term = leader.replica.status().term
        cluster.network.conditions.bytes_per_s = 2 * 2**20
        began_s = cluster.loop.time()

        await cluster.put(b"\x08" * (10 << 20), within_s=60.0)

        assert cluster.loop.time() - began_s > 4.0
        assert leader.replica.status().role is Role.LEADER
        assert leader.replica.status().term == term

    simulate(scenario, seed="large and slow")


def test_a_divergent_tail_is_replaced_and_the_log_goes_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        old = await cluster.await_leader()
        await cluster.put(b"common")
        for other in cluster.followers():
            cluster.network.block(old.name, other.name)
        cluster.propose(old, b"never committed")
        await cluster.until("another leads", lambda: cluster.leader() not in {None, old})
        for number in range(10):
            await cluster.put(b"new reign %d" % number)

        await cluster.settle()

        assert b"never committed" not in [entry for _, _, entry in old.machine.entries]

    simulate(scenario, seed="divergent")


# ---------------------------------------------------------------------- snapshots


async def _compact(cluster: Cluster) -> None:
    """Write until what was first in the leader's journal is gone."""
    leader = await cluster.await_leader()
    number = 0
    while leader.journal.first_index < 20:
        number += 1
        await cluster.put((b"entry %d " % number).ljust(300, b"."))
        leader = await cluster.await_leader()


def test_a_follower_that_missed_compacted_entries_gets_a_snapshot() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        await cluster.await_leader()
        away = cluster.followers()[0]
        away.kill()
        await _compact(cluster)
        await away.start()

        await cluster.settle()

        assert away.journal.first_index > 1

    simulate(scenario, seed="snapshot")


@pytest.mark.parametrize("seed", range(6))
def test_a_snapshot_survives_interruptions(seed: int) -> None:
    """Broken connections, a killed receiver, a change of leader: there is never a gap."""

    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        await cluster.await_leader()
        away = cluster.followers()[0]
        away.kill()
        await _compact(cluster)
        for _ in range(6):
            if not away.up:
                await away.start()
            await asyncio.sleep(cluster.draw.uniform(0.0, 0.15))
            match cluster.draw.randrange(4):
                case 0:
                    away.kill()
                case 1:
                    away.cut_power()
                case 2:
                    for name in cluster.hosts:
                        cluster.network.break_links(away.name, name)
                case _:
                    leader = cluster.leader()
                    if leader is not None and leader is not away:
                        leader.kill()
                        await leader.start()

        await cluster.settle()

    settings = RaftSettings(snapshot_chunk_bytes=1_000)
    simulate(scenario, seed=f"interrupted {seed}", settings=settings)


def test_a_damaged_snapshot_is_not_installed() -> None:
    async def scenario(stage: Stage) -> None:
        data = b"not what was sent"
        chunk = peer_pb2.SnapshotChunk(
            term=1,
            last_index=9,
            last_term=1,
            file_bytes=len(data),
            file_crc=zlib.crc32(b"what was sent"),
            data=data,
        )
        stage.puppets["n1"].say(snapshot_chunk=chunk)

        reply = (await stage.puppets["n1"].hears("snapshot_reply")).snapshot_reply

        assert reply.failed
        assert stage.host.machine.applied == AppliedAt(1, 0)
        assert stage.host.journal.last_index == 1

    on_stage(scenario)


def test_pieces_of_two_transfers_do_not_make_one() -> None:
    async def scenario(stage: Stage) -> None:
        first = peer_pb2.SnapshotChunk(
            term=1, last_index=9, last_term=1, file_bytes=8, file_crc=1, data=b"half"
        )
        stage.puppets["n1"].say(snapshot_chunk=first)
        await stage.puppets["n1"].hears("snapshot_reply")
        other = peer_pb2.SnapshotChunk(
            term=1, last_index=9, last_term=1, file_bytes=8, file_crc=2, offset=4, data=b"half"
        )

        stage.puppets["n1"].say(snapshot_chunk=other)

        assert (await stage.puppets["n1"].hears("snapshot_reply")).snapshot_reply.failed

    on_stage(scenario)


def test_a_transfer_ends_with_its_connection() -> None:
    async def scenario(stage: Stage) -> None:
        chunk = {"term": 1, "last_index": 9, "last_term": 1, "file_bytes": 8, "file_crc": 1}
        stage.puppets["n1"].say(snapshot_chunk=peer_pb2.SnapshotChunk(**chunk, data=b"half"))
        await stage.puppets["n1"].hears("snapshot_reply")
        again = Puppet(stage, "n1")
        stage.dial(again)
        await again.hears("hello")

        again.say(snapshot_chunk=peer_pb2.SnapshotChunk(**chunk, offset=4, data=b"half"))

        assert (await again.hears("snapshot_reply")).snapshot_reply.failed

    on_stage(scenario)


def test_a_node_whose_state_ends_before_its_journal_begins_waits_for_a_snapshot() -> None:
    """Its disk lost the state and kept the journal: it votes, does not stand, and is rebuilt."""

    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        await _compact(cluster)
        hurt = cluster.followers()[0]
        await cluster.until("it has compacted, too", lambda: hurt.journal.first_index > 1)
        hurt.kill()
        del hurt.state_disk.durable[1:]
        hurt.checker = None
        kept = hurt.journal.last_index
        await hurt.start()
        assert "waits for a peer's snapshot" in hurt.replica.status().message

        await cluster.settle()

        assert hurt.journal.last_index >= kept
        assert hurt.replica.status().message == ""

    simulate(scenario, seed="rebuild")
