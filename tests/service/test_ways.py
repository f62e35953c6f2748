"""Nodes send calls to one another by a listener of their own, which callers cannot fill."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import Cluster, Stubs, cluster_of, fails, stubs_of, until
from tests.service.trio import Trio, trio
from tq.v1 import cluster_service_pb2, task_service_pb2
from tq_cluster.service import service

SUBMIT = task_service_pb2.SubmitRequest(request_id="r1")
STATUS = cluster_service_pb2.GetClusterStatusRequest()


async def connected(cluster: Cluster, *node_ids: str) -> None:
    """Wait until those nodes are connected to the others' listeners for nodes."""
    for node_id in node_ids:
        ways = cluster[node_id].service._ways
        for other in cluster.nodes:
            if other != node_id:
                address = cluster[other].forward_address
                await until(
                    lambda ways=ways, other=other, address=address: (  # type: ignore[misc]
                        ways.to(other, "the API") == address
                    ),
                    f"{node_id} is connected to {other}",
                )


async def test_a_call_reaches_a_leader_whose_api_is_full_of_idle_connections() -> None:
    async with (
        cluster_of("n1", "n2", connections_max=8, announced=True) as cluster,
        stubs_of(cluster["n2"]) as stubs,
    ):
        cluster.elect("n1", 2)
        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        host, port = cluster["n1"].address.split(":")
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection((host, int(port))))
            await connected(cluster, "n2")

            await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
            status = await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)

    assert len(cluster["n1"].leader.asked) == 2
    assert [node.reachable for node in status.nodes] == [True, True]


async def test_strangers_at_the_listener_for_nodes_take_no_connection_from_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "NODES_CONNECTIONS_MAX", 8)
    async with (
        cluster_of("n1", "n2", connections_max=8, announced=True) as cluster,
        stubs_of(cluster["n2"]) as stubs,
    ):
        cluster.elect("n1", 2)
        await connected(cluster, "n2")
        with ExitStack() as stack:
            for address in (cluster["n1"].address, cluster["n1"].forward_address):
                host, port = address.split(":")
                for _ in range(100):
                    stack.enter_context(socket.create_connection((host, int(port))))

            for number in range(20):
                named = task_service_pb2.SubmitRequest(request_id=f"r{number}")
                await stubs.tasks.Submit(named, timeout=PATIENCE_S)

    assert len(cluster["n1"].leader.asked) == 20


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("tq-hop", "n2"),),
        (("tq-hop", "n2"), ("tq-elapsed-ms", "0"), ("tq-peer-proof", "0" * 64)),
    ],
    ids=["a caller", "who says that it is a node", "with a proof that is none"],
)
async def test_whoever_is_no_node_is_refused_at_the_listener_for_nodes(
    metadata: tuple[tuple[str, str], ...],
) -> None:
    async with cluster_of("n1", "n2", announced=True) as cluster:
        cluster.elect("n1", 2)
        async with grpc.aio.insecure_channel(cluster["n1"].forward_address) as channel:
            stubs = Stubs(channel)
            with fails() as failure:
                await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=metadata)
            with fails() as unserved:
                await stubs.cluster.Backup(
                    cluster_service_pb2.BackupRequest(), timeout=5, metadata=metadata
                ).read()

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert "for the cluster's own nodes" in failure.message
    assert unserved.code is grpc.StatusCode.UNIMPLEMENTED
    assert cluster["n1"].leader.asked == []


async def test_a_node_whose_proofs_the_leader_does_not_know_yet_is_answered_at_its_api() -> None:
    async with (
        cluster_of("n1", "n2", announced=True) as cluster,
        stubs_of(cluster["n2"]) as stubs,
    ):
        cluster.elect("n1", 2)
        await connected(cluster, "n2")
        # A member was replaced, and the entry that says so is not applied there yet.
        cluster["n1"].membership = ("c1", {"n1": "inc-n1", "n2": "another disk"})

        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        status = await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)

    assert len(cluster["n1"].leader.asked) == 1
    assert [node.reachable for node in status.nodes] == [True, True]


async def test_a_node_of_an_earlier_version_is_called_at_its_api() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        assert cluster["n2"].service._ways.to("n1", "the API") == "the API"

        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)

    assert len(cluster["n1"].leader.asked) == 1


@pytest.mark.cluster
async def test_nodes_tell_one_another_of_their_listeners_and_of_new_ones(tmp_path: Path) -> None:
    def knows(nodes: Trio, node_id: str, other: str) -> bool:
        return nodes.nodes[node_id].service._ways.to(other, "") != ""

    async with trio(tmp_path) as nodes:
        await nodes.await_leader()
        for node_id, other in permutations(nodes.configs, 2):
            await until(
                lambda node_id=node_id, other=other: knows(nodes, node_id, other),  # type: ignore[misc]
                f"{node_id} is connected to {other}",
            )

        await nodes.stop("n3")
        await until(lambda: not knows(nodes, "n1", "n3"), "n3 is away")
        await nodes.start("n3")
        await until(lambda: knows(nodes, "n1", "n3"), "n1 is connected to its new listener")


async def test_a_connection_to_a_listener_that_moved_is_closed() -> None:
    async with cluster_of("n1", "n2", announced=True) as cluster:
        await connected(cluster, "n2")
        of_n2 = cluster["n2"].service
        before = cluster["n1"].forward_address
        assert before in of_n2._links._channels

        cluster.forwards["n1"] = "127.0.0.1:1"  # it was started again
        of_n2._ways.keep("n1")

        assert before not in of_n2._links._channels
