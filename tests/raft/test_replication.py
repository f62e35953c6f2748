"""What is sent to whom: appends, heartbeats, large entries, snapshots."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence

import pytest

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.puppet import Puppet, Stage, append, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.raft.log_api import Role
from tq_cluster.raft.settings import RaftSettings

# ---------------------------------------------------------------------- appends


def test_the_commit_index_rides_on_the_next_entry() -> None:
    """One append an entry and follower, and a heartbeat now and then."""
    sent, heartbeats = simulate(_hundred_entries, seed="one append")

    assert len(sent) <= 2 * (100 + heartbeats)


def test_followers_that_are_equally_far_get_the_same_bytes() -> None:
    sent, heartbeats = simulate(_hundred_entries, seed="one encoding")

    assert len({id(encoded) for encoded in sent}) <= 100 + heartbeats


async def _hundred_entries(cluster: Cluster) -> tuple[list[Sequence[bytes]], int]:
    """What a leader sends in order for a hundred entries, and how many heartbeats that takes."""
    cluster.load.on = False
    await cluster.start()
    leader = await cluster.await_leader()
    sent: list[Sequence[bytes]] = []
    send = leader.replica._engine.peers.send_in_order

    def note(peer_id: str, encoded: Sequence[bytes]) -> None:
        sent.append(encoded)
        send(peer_id, encoded)

    leader.replica._engine.peers.send_in_order = note  # type: ignore[method-assign]  # looks on
    for number in range(100):
        await cluster.put(b"entry %d" % number)
    return sent, int(cluster.loop.time() / RaftSettings().heartbeat_s) + 1


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


def test_followers_vouch_only_for_what_was_compared() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"entry")] * 5))
        await stage.puppets["n1"].hears("append_reply")

        # Another leader has the first two of them, and says nothing of the others.
        stage.puppets["n3"].say(append=append(2, (1, 0), [(1, b"entry")] * 2))

        reply = (await stage.puppets["n3"].hears("append_reply")).append_reply
        assert reply.accepted
        assert reply.next_index == 4
        assert stage.host.journal.last_index == 6, "what follows may yet turn out to match"

    on_stage(scenario)


def test_a_leader_does_not_count_itself_before_its_own_fsync() -> None:
    """A follower would apply what only it has on disk."""

    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        stage.host.syncer.delay_s = (0.100, 0.100)
        await stage.pass_time(0.1)
        follower = stage.puppets["n3"]
        follower.say(append_reply=_ack(term, 3))
        index = await stage.propose(b"entry")
        follower.say(append_reply=_ack(term, index + 1))
        await stage.pass_time(0.090)
        assert stage.host.replica.status().commit_index == index - 1

        await stage.proposed[0]

        assert stage.host.journal.durable_last_index() == index

    on_stage(scenario)


def test_an_ack_counts_for_nothing_in_a_later_reign_of_the_same_leader() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.elect("n3", "n4")
        for index in range(3, 9):
            stage.host.replica._engine.append(b"waits", index, 1)
        # Of five members one acknowledges all of it: nothing is committed by that.
        for name in ("n3", "n4"):
            stage.puppets[name].heard.clear()
        far = peer_pb2.AppendReply(term=1, accepted=True, next_index=9, last_index=8)
        stage.puppets["n3"].say(append_reply=far)
        await stage.pass_time(0.05)
        # Another leads, and this log loses its end; then this node leads again.
        stage.puppets["n1"].say(append=append(2, (1, 0), [(2, b"another")]))
        await stage.puppets["n1"].hears("append_reply")
        stage.network.break_links("n1", "n2")
        await stage.elect("n3", "n4")
        await stage.pass_time(0.05)
        stage.puppets["n4"].say(append_reply=_ack(stage.host.replica.status().term, 4))
        await stage.pass_time(0.05)

        assert stage.host.replica.status().commit_index == 1

    on_stage(scenario, size=5)


def test_what_a_peer_has_acknowledged_is_not_sent_again() -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        follower = stage.puppets["n3"]
        follower.say(append_reply=_ack(term, 3))
        index = 2
        for _ in range(5):
            index = await stage.propose(b"entry")
            follower.say(append_reply=_ack(term, index + 1))
        await stage.until("all is applied", lambda: stage.host.machine.applied.index == index)
        follower.heard.clear()

        late = peer_pb2.AppendReply(term=term, accepted=False, next_index=2, last_index=index)
        follower.say(append_reply=late)
        await stage.pass_time(0.2)

        assert [message for message in follower.appends() if message.entries] == []

    on_stage(scenario)


def _ack(term: int, next_index: int) -> peer_pb2.AppendReply:
    return peer_pb2.AppendReply(
        term=term, accepted=True, next_index=next_index, last_index=next_index - 1
    )


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
    """Ten MiB at two MiB/s take longer than any election timeout; no follower loses patience."""

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
            await cluster.put(b"new leadership %d" % number)

        await cluster.settle()

        assert b"never committed" not in [entry for _, _, entry in old.machine.entries]

    simulate(scenario, seed="divergent")


def test_the_journal_keeps_what_the_state_has_not_made_durable() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        for host in cluster.hosts.values():
            host.machine.commit = _never  # type: ignore[method-assign]  # its disk is stuck
        for number in range(200):
            await cluster.put((b"entry %d " % number).ljust(300, b"."))
        await asyncio.sleep(2 * RaftSettings().compact_every_s)

        assert {host.journal.first_index for host in cluster.hosts.values()} == {1}

    simulate(scenario, seed="not durable")


def _never() -> None:
    return None


# ---------------------------------------------------------------------- snapshots


async def _compact(cluster: Cluster) -> None:
    """Write until what was first in the leader's journal is gone."""
    for number in range(500):
        await cluster.put((b"entry %d " % number).ljust(300, b"."))
        if (await cluster.await_leader()).journal.first_index >= 20:
            return
    raise AssertionError(f"nothing was compacted in 500 entries\n{cluster.describe()}")


def test_a_follower_that_missed_compacted_entries_gets_a_snapshot() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        await cluster.await_leader()
        away = cluster.followers()[0]
        away.kill()
        await _compact(cluster)
        await away.start()
        heard: list[int] = []
        away.replica.on_applied(heard.append)

        await cluster.settle()

        assert away.journal.first_index > 1
        assert heard[-1] == away.replica.status().applied_index

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


def test_a_snapshot_older_than_the_state_does_not_take_it_back() -> None:
    async def scenario(stage: Stage) -> None:
        leader = stage.puppets["n1"]
        leader.say(append=append(1, (1, 0), [(1, b"entry")] * 9, commit_index=10))
        await stage.until("it is applied", lambda: stage.host.machine.applied.index == 10)
        state = stage.host.machine.entries
        content = b'[[1, 0, ""], [2, 1, "00"]]'
        leader.say(
            snapshot_chunk=peer_pb2.SnapshotChunk(
                term=1,
                last_index=2,
                last_term=1,
                file_bytes=len(content),
                file_crc=zlib.crc32(content),
                data=content,
            )
        )

        assert (await leader.hears("snapshot_reply")).snapshot_reply.installed
        await stage.pass_time(0.2)

        assert stage.host.machine.entries is state
        assert stage.host.machine.applied.index == 10

    on_stage(scenario)


def test_a_missing_piece_is_noticed_when_the_next_one_comes() -> None:
    async def scenario(stage: Stage) -> None:
        chunk = peer_pb2.SnapshotChunk(
            term=1, last_index=9, last_term=1, file_bytes=1_000_000, file_crc=1, data=b"piece"
        )
        stage.puppets["n1"].say(snapshot_chunk=chunk)
        assert not (await stage.puppets["n1"].hears("snapshot_reply")).snapshot_reply.failed
        chunk.offset = 500

        stage.puppets["n1"].say(snapshot_chunk=chunk)

        assert (await stage.puppets["n1"].hears("snapshot_reply")).snapshot_reply.failed

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
        content = b'[[1, 0, ""], [2, 1, "00"]]'
        begin = peer_pb2.SnapshotChunk(
            term=1,
            last_index=2,
            last_term=1,
            file_bytes=len(content),
            file_crc=zlib.crc32(content),
            data=content[:4],
        )
        stage.puppets["n1"].say(snapshot_chunk=begin)
        await stage.puppets["n1"].hears("snapshot_reply")
        again = Puppet(stage, "n1")
        stage.dial(again)
        await again.hears("hello")
        end = peer_pb2.SnapshotChunk()
        end.CopyFrom(begin)
        end.offset, end.data = 4, content[4:]

        again.say(snapshot_chunk=end)

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
        hurt.journal.sync_now()
        hurt.kill()
        del hurt.state_disk.durable[1:]
        hurt.checker = None
        kept = hurt.journal.last_index
        for host in cluster.hosts.values():
            if host.up:
                host.kill()
        await hurt.start()
        assert "waits for a peer's snapshot" in hurt.replica.status().message
        helper = next(host for host in cluster.hosts.values() if host is not hurt)
        await helper.start()
        helper.pause()
        await asyncio.sleep(2.0)
        assert hurt.replica._engine.elections._attempts == 0, "it could not lead if it were elected"
        helper.resume()
        await cluster.until("somebody leads", lambda: cluster.leader() is not None)
        assert cluster.leader() is helper
        assert hurt.replica.status().term == helper.replica.status().term

        await cluster.settle()

        assert hurt.journal.last_index >= kept
        assert hurt.replica.status().message == ""

    simulate(scenario, seed="rebuild")
