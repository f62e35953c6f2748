"""tq.v1.ClusterService."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from tq.v1 import cluster_service_pb2 as pb
from tq_cluster.core.kernel.validation import check_span, invalid
from tq_cluster.core.model.limits import MINUTE_MS
from tq_cluster.errors import OutcomeUnknownError, OverloadedError
from tq_cluster.raft.log_api import Log
from tq_cluster.service.backend import Leading
from tq_cluster.service.backups import Backups
from tq_cluster.service.call import Call, Method, Place, StreamMethod
from tq_cluster.service.errors import refusal
from tq_cluster.service.reads import reply_of
from tq_cluster.service.replacement import Replacement
from tq_cluster.service.status import StatusBoard

TRANSFER_S = 5.0


class ClusterServicer:
    """The leader, each node's progress, the limits."""

    name = "tq.v1.ClusterService"

    def __init__(
        self,
        *,
        log: Log,
        leading: Leading,
        board: StatusBoard,
        backups: Backups,
        replacement: Replacement,
        members: Collection[str],
    ) -> None:
        self._log = log
        self._leading = leading
        self._backups = backups
        self._replacement = replacement
        self._board = board
        self._members = members
        self._transferring = False

    def methods(self) -> Sequence[Method | StreamMethod]:
        """Return the methods of this service."""
        return (
            Method(
                name="GetServerInfo",
                request=pb.GetServerInfoRequest,
                handle=self.get_server_info,
                place=Place.ASKED,
            ),
            Method(
                name="GetClusterStatus",
                request=pb.GetClusterStatusRequest,
                handle=self.get_cluster_status,
                place=Place.ASKED,
            ),
            Method(
                name="GetNodeStatus",
                request=pb.GetNodeStatusRequest,
                handle=self.get_node_status,
                place=Place.ASKED,
            ),
            Method(
                name="TransferLeadership",
                request=pb.TransferLeadershipRequest,
                handle=self.transfer_leadership,
            ),
            Method(
                name="VerifyState",
                request=pb.VerifyStateRequest,
                handle=self.verify_state,
            ),
            Method(
                name="ReplaceNode",
                request=pb.ReplaceNodeRequest,
                handle=self.replace_node,
            ),
            StreamMethod(name="Backup", request=pb.BackupRequest, handle=self.backup),
        )

    async def get_server_info(
        self, _request: pb.GetServerInfoRequest, _call: Call
    ) -> pb.GetServerInfoResponse:
        return self._board.info()

    async def get_cluster_status(
        self, _request: pb.GetClusterStatusRequest, call: Call
    ) -> pb.GetClusterStatusResponse:
        return await self._board.cluster(call.cut_s)

    async def get_node_status(
        self, request: pb.GetNodeStatusRequest, _call: Call
    ) -> pb.GetNodeStatusResponse:
        span_s: float | None = None
        if request.HasField("loop_hold_span"):
            fault = check_span("loop_hold_span", request.loop_hold_span, 1, MINUTE_MS)
            if fault is not None:
                raise refusal(fault)
            span_s = request.loop_hold_span.ToMilliseconds() / 1000
        return pb.GetNodeStatusResponse(node=self._board.node(span_s))

    async def transfer_leadership(
        self, request: pb.TransferLeadershipRequest, _call: Call
    ) -> pb.TransferLeadershipResponse:
        target = request.target_node_id or None
        if target is not None and target not in self._members:
            right = ", ".join(sorted(self._members))
            raise refusal(
                invalid("target_node_id", f"is {target[:64]!r}, no member; right is {right}")
            )
        peer = None if target is None else self._log.status().peers.get(target)
        if peer is not None and not peer.connected:
            raise refusal(
                invalid("target_node_id", f"is {target}, which the leader does not reach now")
            )
        hands_over = target is None or target != self._log.status().leader_id
        if hands_over and self._transferring:
            raise OverloadedError("leadership is being handed over already")
        self._transferring |= hands_over
        try:
            leader_id = await self._log.transfer_leadership(target, TRANSFER_S)
        except TimeoutError as error:
            raise OutcomeUnknownError(f"nobody took over within {TRANSFER_S:g} s") from error
        finally:
            if hands_over:
                self._transferring = False
        return pb.TransferLeadershipResponse(leader_id=leader_id)

    async def verify_state(
        self, request: pb.VerifyStateRequest, _call: Call
    ) -> pb.VerifyStateResponse:
        reply: pb.VerifyStateResponse = reply_of(await self._leading.verify_state(request))
        return reply

    async def replace_node(
        self, request: pb.ReplaceNodeRequest, call: Call
    ) -> pb.ReplaceNodeResponse:
        return await self._replacement.replace(request, call.caller)

    async def backup(
        self, request: pb.BackupRequest, _call: Call
    ) -> AsyncGenerator[pb.BackupResponse, None]:
        async with aclosing(self._backups.stream(request)) as parts:
            async for part in parts:
                yield part
