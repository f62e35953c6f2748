"""I7: what the brokers find when they compare their states reaches the verdict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import StatusCode, aio

from chaos.cluster import verify
from chaos.cluster.cluster import FactMissingError
from chaos.cluster.outside import OutsideCluster
from tq.v1 import cluster_service_pb2 as pb

SERVICE = "tq.v1.ClusterService"


class Leader:
    """Answers with what it is given, one after the other, the last one for ever."""

    def __init__(self, *answers: pb.VerifyStateResponse | None) -> None:
        self._answers: Iterator[pb.VerifyStateResponse | None] = iter(answers)
        self._last: pb.VerifyStateResponse | None = None
        self.started = 0

    async def verify_state(
        self,
        request: pb.VerifyStateRequest,
        context: aio.ServicerContext[pb.VerifyStateRequest, pb.VerifyStateResponse],
    ) -> pb.VerifyStateResponse:
        self.started += request.start
        self._last = next(self._answers, self._last)
        if self._last is None:
            await context.abort(StatusCode.UNAVAILABLE, "no leader")
        return self._last


@asynccontextmanager
async def cluster_of(leader: Leader) -> AsyncIterator[OutsideCluster]:
    server = aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        leader.verify_state,
        request_deserializer=pb.VerifyStateRequest.FromString,
        response_serializer=pb.VerifyStateResponse.SerializeToString,
    )
    methods = grpc.method_handlers_generic_handler(SERVICE, {"VerifyState": handler})
    server.add_generic_rpc_handlers((methods,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    cluster = OutsideCluster([f"127.0.0.1:{port}"])
    try:
        yield cluster
    finally:
        await cluster.close()
        await server.stop(None)


def under_way(began_s: int) -> pb.VerifyStateResponse:
    seen = pb.VerifyStateResponse()
    seen.began_at.FromSeconds(began_s)
    return seen


def ended(began_s: int, *differences: str, owing: int = 0) -> pb.VerifyStateResponse:
    seen = pb.VerifyStateResponse(last_rows=9)
    seen.last_began_at.FromSeconds(began_s)
    seen.nodes.add(node_id="n2", ranges_agreed=3, unanswered_index=owing)
    for message in differences:
        seen.differences.add(node_id="n2", index=7, message=message)
    return seen


async def test_states_that_agree_differ_in_nothing() -> None:
    leader = Leader(ended(5), under_way(6), ended(6, owing=8), ended(6))
    async with cluster_of(leader) as cluster:
        found = await verify.differences(cluster, within_s=20)

    assert found == []
    assert leader.started == 1


async def test_a_difference_is_told_in_the_brokers_words() -> None:
    async with cluster_of(Leader(ended(5), ended(6, "n2 differs in table 4"))) as cluster:
        found = await verify.differences(cluster, within_s=20)

    assert found == ["n2 differs in table 4"]


async def test_a_pass_that_ended_with_its_leader_is_begun_again() -> None:
    leader = Leader(ended(5), None, pb.VerifyStateResponse(), under_way(8), ended(9))
    async with cluster_of(leader) as cluster:
        found = await verify.differences(cluster, within_s=20)

    assert found == []
    assert leader.started == 2


async def test_a_comparison_that_does_not_end_is_no_agreement() -> None:
    async with cluster_of(Leader(ended(5), under_way(6))) as cluster:
        with pytest.raises(FactMissingError, match="every node's state to be compared"):
            await verify.differences(cluster, within_s=0.3)
