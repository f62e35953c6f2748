"""Three replicas over real sockets and real journals."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from tests.raft.real_cluster import RealCluster, RealNode, real_cluster
from tq.internal.v1.peer_pb2 import Hello, PeerMessage
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft import frames
from tq_cluster.raft.connection import Connection, ConnectionOwner
from tq_cluster.raft.log_api import Role
from tq_common import addresses


async def test_empty_nodes_form_a_cluster_and_agree(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        index = await cluster.put(b"first")

        histories = await cluster.settle()

        assert histories[0] == histories[1] == histories[2]
        assert (index, 1, b"first") in histories[0]
        assert len({node.directory.cluster_id for node in cluster.nodes.values()}) == 1
        membership = (await cluster.await_leader()).replica.formation()
        assert membership is not None
        assert membership[1] == {
            name: node.directory.incarnation for name, node in cluster.nodes.items()
        }


async def test_a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    async with real_cluster(tmp_path) as cluster:
        acknowledged = []
        for round_number in range(3):
            for number in range(20):
                entry = b"%d/%d" % (round_number, number)
                acknowledged.append((await cluster.put(entry), entry))
            dead = await cluster.await_leader()
            dead.kill()
            acknowledged.append((await cluster.put(b"after %d" % round_number), b"after"))
            await dead.start()

        history, *others = await cluster.settle()

        assert all(other == history for other in others)
        by_index = {index: entry for index, _, entry in history}
        for index, entry in acknowledged:
            assert by_index[index].startswith(entry)


async def test_all_nodes_restart_and_still_hold_what_was_acknowledged(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        index = await cluster.put(b"kept")
        for node in cluster.nodes.values():
            node.kill()
        for node in cluster.nodes.values():
            await node.start()

        histories = await cluster.settle()

        assert all((index, 1, b"kept") in history for history in histories)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64 * 1024, 1 << 20, 10 << 20])
async def test_a_large_entry_arrives_whole_everywhere(tmp_path: Path, size: int) -> None:
    entry = random.Random(size).randbytes(size)
    async with real_cluster(tmp_path) as cluster:
        index = await cluster.put(entry)

        histories = await cluster.settle()

        assert all(history[index - 1][2] == entry for history in histories)


async def test_a_follower_refuses_to_propose_and_to_confirm(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        leader = await cluster.await_leader()
        base = leader.replica.decidable()
        assert base is not None
        for follower in _others(cluster, leader):
            with pytest.raises(NotLeaderError):
                await follower.replica.propose(b"no", base)
            with pytest.raises(NotLeaderError):
                await follower.replica.confirm()


async def test_a_leader_confirms_at_what_it_has_applied(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        index = await cluster.put(b"read me")
        leader = await cluster.await_leader()

        confirmed = await asyncio.gather(*(leader.replica.confirm() for _ in range(50)))

        assert all(at.index >= index for at in confirmed)


@pytest.mark.slow
async def test_a_deposed_leader_refuses_what_it_was_asked_to_confirm(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        leader = await cluster.await_leader()
        for follower in _others(cluster, leader):
            follower.kill()

        with pytest.raises(NotLeaderError):
            await leader.replica.confirm()

        assert leader.replica.status().role is not Role.LEADER


@pytest.mark.slow
async def test_leadership_is_handed_to_whom_was_asked_for(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        leader = await cluster.await_leader()
        heir = _others(cluster, leader)[0]
        await cluster.put(b"before")

        assert await leader.replica.transfer_leadership(heir.name, 5.0) == heir.name

        await cluster.until("the heir leads", lambda: cluster.leader() is heir)
        with pytest.raises(NotLeaderError):
            await leader.replica.transfer_leadership(None, 1.0)


async def test_a_leader_that_stops_hands_over_first(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        leader = await cluster.await_leader()
        term = leader.replica.status().term

        await leader.stop()

        heir = await cluster.await_leader()
        assert heir is not leader
        assert heir.replica.status().term == term + 1
        await leader.start()
        await cluster.settle()


async def test_noise_on_the_raft_port_changes_nothing(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        leader = await cluster.await_leader()
        for node in cluster.nodes.values():
            host, port = addresses.split(node.members[node.name])
            with socket.create_connection((host, port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\nHost: raft\r\n\r\n" * 100)

        await cluster.settle()

        assert cluster.leader() is leader


def _others(cluster: RealCluster, node: RealNode) -> list[RealNode]:
    return [other for other in cluster.nodes.values() if other is not node]


async def test_what_was_sent_before_a_reset_is_not_read_as_nobody_knows_from_where() -> None:
    over = asyncio.Event()
    owner = create_autospec(ConnectionOwner)
    owner.on_lost.side_effect = lambda _connection: over.set()
    connection = Connection(owner, None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as sock:
            sock.sendall(b"".join(frames.encode(PeerMessage(hello=Hello(node_id="n1")))))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted, _ = listening.accept()
    accepted.setblocking(False)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        await loop.connect_accepted_socket(lambda: connection, accepted)
    await over.wait()

    owner.on_greeting.assert_not_called()
    owner.on_lost.assert_called_once_with(connection)
