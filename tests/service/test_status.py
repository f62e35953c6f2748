"""The cluster's status, health and reads of one's own disk: what works without a leader."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.core.lone_queue import span
from tests.patience import PATIENCE_S
from tests.service.fakes import Stubs, cluster_of, fails, stubs_of, until
from tq.v1 import cluster_service_pb2, queue_service_pb2, task_service_pb2
from tq_cluster.errors import StartError
from tq_cluster.raft.log_api import Role
from tq_cluster.service.status import Vitals

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STATUS = cluster_service_pb2.GetClusterStatusRequest()
NodeStatus = cluster_service_pb2.NodeStatus
NodeStatusRequest = cluster_service_pb2.GetNodeStatusRequest


async def test_any_node_shows_every_member_and_the_limits() -> None:
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 4)
        cluster["n3"].log.applied_index = 7
        cluster["n1"].log.role = Role.LEADER

        status = await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)

    assert (status.cluster_id, status.leader_id, status.term) == ("c1", "n1", 4)
    assert status.asked_node_id == "n2"
    assert [node.node_id for node in status.nodes] == ["n1", "n2", "n3"]
    assert [node.role for node in status.nodes] == [
        NodeStatus.ROLE_LEADER,
        NodeStatus.ROLE_FOLLOWER,
        NodeStatus.ROLE_FOLLOWER,
    ]
    assert [node.lag_entries for node in status.nodes] == [0, 0, 3]
    assert all(node.reachable for node in status.nodes)
    n1 = status.nodes[0]
    assert n1.address == cluster["n1"].address
    assert n1.fsync_p99.ToMicroseconds() == 2_000
    assert n1.loop_hold_max.ToMicroseconds() == 3_000
    assert [peer.node_id for peer in n1.peers] == ["n2", "n3"]
    assert status.limits.payload_bytes_max == 10 << 20
    assert status.limits.message_bytes_max > status.limits.payload_bytes_max
    assert status.limits.request_id_window.ToSeconds() == 600


async def test_a_node_says_how_long_its_loop_was_held_as_far_back_as_asked() -> None:
    asked: list[float | None] = []
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        vitals = cluster["n1"].vitals

        def noted(span_s: float | None) -> Vitals:
            asked.append(span_s)
            return vitals(span_s)

        cluster["n1"].vitals = noted
        node = (await stubs.cluster.GetNodeStatus(NodeStatusRequest(), timeout=PATIENCE_S)).node
        in_2_s = NodeStatusRequest(loop_hold_span=span(2_000))
        await stubs.cluster.GetNodeStatus(in_2_s, timeout=PATIENCE_S)
        with fails() as failure:
            await stubs.cluster.GetNodeStatus(NodeStatusRequest(loop_hold_span=span(60_001)))

    assert node.loop_hold_max.ToMicroseconds() == 3_000
    assert node.loop_hold_cpu_max.ToMicroseconds() == 1_000
    assert asked == [None, 2.0]
    assert failure.message == "loop_hold_span is 60.001 s; it takes 0.001 s to 60 s"


@pytest.mark.slow
async def test_a_node_that_is_down_is_shown_with_the_reason_and_nobody_needs_to_lead() -> None:
    async with cluster_of("n1", absent=("n2", "n3")) as cluster, stubs_of(cluster["n1"]) as stubs:
        status = await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)

    assert status.leader_id == ""
    assert [node.reachable for node in status.nodes] == [True, False, False]
    assert [node.unreachable_reason for node in status.nodes[1:]] == ["no connection"] * 2
    assert status.nodes[1].address == "127.0.0.1:1"


async def test_something_else_at_a_members_address_is_not_taken_for_the_member() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.apis["n2"] = cluster["n1"].address

        status = await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)

    assert status.nodes[1].unreachable_reason == "n1 answers at its address"


@pytest.mark.slow
async def test_a_node_that_is_there_and_says_nothing_is_told_from_one_that_is_not_there() -> None:
    async def say_nothing(_request: bytes, _context: object) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets it")

    silent = grpc.aio.server()
    answer: Any = grpc.unary_unary_rpc_method_handler(say_nothing)
    handlers = {"GetNodeStatus": answer}
    silent.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tq.v1.ClusterService", handlers),)
    )
    port = silent.add_insecure_port("127.0.0.1:0")
    await silent.start()
    try:
        async with cluster_of("n1", absent=("n2",)) as cluster, stubs_of(cluster["n1"]) as stubs:
            cluster.apis["n2"] = f"127.0.0.1:{port}"
            status = await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)
            hasty = await stubs.cluster.GetClusterStatus(STATUS, timeout=0.5)
    finally:
        await silent.stop(grace=None)

    assert status.nodes[1].unreachable_reason == "connected, but no answer within 0.5 s"
    assert not hasty.nodes[1].reachable, "the silent one leaves time for the answer about all"


async def health_of(stubs: Stubs, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(stubs.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
    return int(reply.status)


async def await_health(stubs: Stubs, service: str, wanted: int) -> None:
    stub: Any = health_pb2_grpc.HealthStub(stubs.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    async for reply in stub.Watch(request, timeout=PATIENCE_S):
        if reply.status == wanted:
            return
    raise AssertionError(f"{service} never became {wanted}")


async def test_a_service_is_healthy_only_while_a_call_can_be_served() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        assert await health_of(stubs, "tq.v1.TaskService") == NOT_SERVING
        assert await health_of(stubs, "") == NOT_SERVING
        assert await health_of(stubs, "tq.v1.ClusterService") == SERVING

        cluster.elect("n1", 2)
        await await_health(stubs, "tq.v1.TaskService", SERVING)
        await await_health(stubs, "", SERVING)

        cluster["n2"].log.disconnected.add("n1")
        await await_health(stubs, "tq.v1.WorkerService", NOT_SERVING)

        cluster.elect("n2", 3)
        await await_health(stubs, "tq.v1.WorkerService", SERVING)

        await cluster["n2"].service.show_stopping()
        assert await health_of(stubs, "tq.v1.WorkerService") == NOT_SERVING


async def test_the_services_can_be_discovered_by_reflection() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        channel: Any = stubs.channel  # the published types know no asyncio channel here
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        new_request: Any = reflection_pb2.ServerReflectionRequest
        request = new_request(list_services="")
        [reply] = [
            each async for each in stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_S)
        ]

    names = {service.name for service in reply.list_services_response.service}
    assert {
        "tq.v1.TaskService",
        "tq.v1.WorkerService",
        "tq.v1.QueueService",
        "tq.v1.ClusterService",
        "grpc.health.v1.Health",
    } <= names


async def test_a_local_read_needs_no_leader_and_says_how_old_it_may_be() -> None:
    request = queue_service_pb2.ListQueuesRequest(read_level=task_service_pb2.READ_LEVEL_LOCAL)
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        with fails() as empty:
            await stubs.queues.ListQueues(request, timeout=5)
        cluster["n1"].store.apply(2, 1, b"")
        cluster["n1"].store.commit()
        reply = await stubs.queues.ListQueues(request, timeout=5)

    assert empty.reason == "NO_STATE", "an empty answer would be taken for an empty queue"
    assert reply.staleness.ToMilliseconds() > 0
    assert cluster["n1"].leader.asked == []


async def test_a_linearizable_read_goes_to_the_leader_and_is_not_stale() -> None:
    request = queue_service_pb2.ListQueuesRequest()
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        reply = await stubs.queues.ListQueues(request, timeout=PATIENCE_S)

    assert not reply.HasField("staleness")


async def test_leadership_is_handed_over_by_the_leader_wherever_it_is_asked() -> None:
    request = cluster_service_pb2.TransferLeadershipRequest(target_node_id="n2")
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].log.transfer_to = "n2"
        reply = await stubs.cluster.TransferLeadership(request, timeout=PATIENCE_S)

        cluster["n1"].log.transfer_to = None
        with fails() as unknown:
            await stubs.cluster.TransferLeadership(request, timeout=5)
        request.target_node_id = "n9"
        with fails() as wrong:
            await stubs.cluster.TransferLeadership(request, timeout=5)
        request.target_node_id = "n2"
        cluster["n1"].log.disconnected = {"n2"}
        with fails() as away:
            await stubs.cluster.TransferLeadership(request, timeout=5)

    assert reply.leader_id == "n2"
    assert cluster["n1"].log.transferred == ["n2", "n2"]
    assert unknown.reason == "OUTCOME_UNKNOWN"
    assert (wrong.reason, wrong.metadata["field"]) == ("INVALID_ARGUMENT", "target_node_id")
    assert "n2, which the leader does not reach now" in away.message


async def test_leadership_is_handed_over_once_at_a_time() -> None:
    begun, over = asyncio.Event(), asyncio.Event()
    request = cluster_service_pb2.TransferLeadershipRequest(target_node_id="n2")
    to_the_leader = cluster_service_pb2.TransferLeadershipRequest(target_node_id="n1")

    async def transfer(target_id: str | None, within_s: float) -> str:
        assert within_s > 0
        if target_id == "n2":
            begun.set()
            await over.wait()
        return target_id or "n2"

    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        log = cluster["n1"].log
        log.transfer_leadership = transfer  # type: ignore[method-assign]  # takes as long as told
        first = asyncio.ensure_future(stubs.cluster.TransferLeadership(request, timeout=PATIENCE_S))
        await begun.wait()
        with fails() as second:
            await stubs.cluster.TransferLeadership(request, timeout=5)
        nothing_to_do = await stubs.cluster.TransferLeadership(to_the_leader, timeout=5)
        over.set()
        reply = await first
        again = await stubs.cluster.TransferLeadership(request, timeout=PATIENCE_S)

    assert (second.reason, second.code) == ("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert nothing_to_do.leader_id == "n1"
    assert reply.leader_id == again.leader_id == "n2"


async def test_many_who_ask_for_the_cluster_share_a_question_to_each_of_its_members() -> None:
    asked = 0
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n1"]) as stubs:
        vitals = cluster["n2"].vitals

        def counted(span_s: float | None) -> Vitals:
            nonlocal asked
            asked += 1
            return vitals(span_s)

        cluster["n2"].vitals = counted
        await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)
        assert asked == 1

        replies = await asyncio.gather(
            *(stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S) for _ in range(40))
        )

    assert all(node.reachable for reply in replies for node in reply.nodes)
    # One that was under way may have been answered before some of them asked: they share the next.
    assert asked - 1 < 40 / 2


async def test_a_status_is_newer_than_the_call_that_asked_for_it() -> None:
    holding, go_on = asyncio.Event(), asyncio.Event()
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n1"]) as stubs:
        board = cluster["n1"].service.board
        ask = board.ask

        async def held(node_id: str, within_s: float) -> NodeStatus:
            found = await ask(node_id, within_s)
            holding.set()
            await go_on.wait()
            return found

        board.ask = held  # type: ignore[method-assign]  # as slow as told
        first = asyncio.ensure_future(stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S))
        await holding.wait()
        cluster["n2"].log.applied_index = 12  # after the first question was answered
        second = asyncio.ensure_future(stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S))
        await until(lambda: cluster["n1"].service.calls == 2, "both wait")
        go_on.set()
        before, after = await first, await second

    assert before.nodes[1].applied_index == 10
    assert after.nodes[1].applied_index == 12


async def test_a_port_in_use_is_said_and_not_shared() -> None:
    async with cluster_of("n1", "n2") as cluster:
        with pytest.raises(StartError, match="cannot listen at"):
            cluster["n2"].service.bind(cluster["n1"].address)


async def test_a_payload_of_ten_mebibytes_passes_through_a_follower() -> None:
    request = task_service_pb2.SubmitRequest(request_id="big")
    request.tasks.add(queue="q", type="t", payload=bytes(10 << 20))
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        await stubs.tasks.Submit(request, timeout=PATIENCE_S)

    [operation] = cluster["n1"].leader.asked
    assert len(operation.request.tasks[0].payload) == 10 << 20
