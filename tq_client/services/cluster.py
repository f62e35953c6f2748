"""Calls for operators: brokers and workers."""

from __future__ import annotations

from tq.v1.cluster_service_pb2 import (
    GetClusterStatusRequest,
    GetClusterStatusResponse,
    GetServerInfoRequest,
    GetServerInfoResponse,
    ReplaceNodeRequest,
    ReplaceNodeResponse,
    TransferLeadershipRequest,
    VerifyStateRequest,
    VerifyStateResponse,
)
from tq.v1.worker_service_pb2 import (
    ListWorkersRequest,
    ListWorkersResponse,
)
from tq_client import methods
from tq_client.services.base import Service, copy
from tq_common.limits import PAGE_SIZE_MAX


class ClusterCalls(Service):
    """Calls of ClusterService, and the list of workers."""

    async def list_workers(self) -> ListWorkersResponse:
        """List all workers that the leader has heard from in the last 5 minutes, by id."""
        request, found = ListWorkersRequest(page_size=PAGE_SIZE_MAX), ListWorkersResponse()
        while True:
            answer = await self._caller.call(
                methods.LIST_WORKERS, copy(request), timeout_s=self._timeout_s
            )
            found.MergeFrom(answer.reply)
            found.next_page_token = ""
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return found

    async def server_info(self, *, timeout_s: float | None = None) -> GetServerInfoResponse:
        """Ask one broker for its version, features and limits; needs no leader.

        UnsupportedError from a broker that is too old to have this call.
        """
        answer = await self._caller.call(
            methods.GET_SERVER_INFO, GetServerInfoRequest(), timeout_s=self._within(timeout_s)
        )
        return answer.reply

    async def cluster_status(self, *, timeout_s: float | None = None) -> GetClusterStatusResponse:
        """Ask one broker for the status of every broker; needs no leader."""
        answer = await self._caller.call(
            methods.GET_CLUSTER_STATUS,
            GetClusterStatusRequest(),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply

    async def transfer_leadership(
        self, target_node_id: str = "", *, timeout_s: float | None = None
    ) -> str:
        """Have the leader hand over to another node; returns the new leader's node id."""
        answer = await self._caller.call(
            methods.TRANSFER_LEADERSHIP,
            TransferLeadershipRequest(target_node_id=target_node_id),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply.leader_id

    async def verify_state(
        self, *, start: bool = False, timeout_s: float | None = None
    ) -> VerifyStateResponse:
        """Get the findings of comparing the brokers' states; ``start`` begins a full pass."""
        answer = await self._caller.call(
            methods.VERIFY_STATE,
            VerifyStateRequest(start=start),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply

    async def replace_node(
        self, node_id: str, *, force: bool = False, timeout_s: float | None = None
    ) -> ReplaceNodeResponse:
        """Put the empty node of this id in the place of the member; see docs/membership.md."""
        answer = await self._caller.call(
            methods.REPLACE_NODE,
            ReplaceNodeRequest(node_id=node_id, force=force),
            timeout_s=self._within(timeout_s),
        )
        return answer.reply
