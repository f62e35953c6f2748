"""I7: equal states at equal log entries, checked by the brokers' own comparison."""

from __future__ import annotations

import asyncio

from grpc import aio

from chaos.cluster.cluster import Cluster
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc

ASK_S = 5.0
LOOK_S = 0.1
Seen = cluster_service_pb2.VerifyStateResponse


async def differences(cluster: Cluster, within_s: float) -> list[str]:
    """Have every node hash its whole state and compare; return descriptions of the differences.

    A pass ends if its leader loses the leadership; a new pass then begins.
    """
    stub = cluster_service_pb2_grpc.ClusterServiceStub(cluster.channel(next(iter(cluster.nodes))))

    async def look(*, start: bool) -> Seen | None:
        request = cluster_service_pb2.VerifyStateRequest(start=start)
        try:
            return await stub.VerifyState(request, timeout=ASK_S)
        except aio.AioRpcError:
            return None  # asked again; on a timeout the error says why there was no answer

    began_at = 0

    async def compared() -> Seen | None:
        nonlocal began_at
        seen = await look(start=not began_at)
        if seen is None:
            return None
        if not began_at:
            began_at = max(seen.began_at.ToNanoseconds(), seen.last_began_at.ToNanoseconds()) or 1
            return None
        under_way = seen.HasField("began_at")
        ended = seen.last_began_at.ToNanoseconds() > began_at
        if not under_way and not ended:
            began_at = 0  # another leader, which has no pass
        await asyncio.sleep(LOOK_S)
        answered = not any(node.unanswered_index for node in seen.nodes)
        return seen if ended and answered else None

    found = await cluster.await_fact("every node's state to be compared", compared, within_s)
    return [difference.message for difference in found.differences]
