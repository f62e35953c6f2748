"""The status of this node, and the status that the others report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio

from tq.v1 import cluster_service_pb2 as pb
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.raft.log_api import Log, LogStatus, Role
from tq_cluster.reading import Reading
from tq_cluster.service.features import features_at
from tq_cluster.service.links import Links
from tq_cluster.service.ways import Ways

PEER_DEADLINE_S = 0.5
STATUS_COST = 40
"""Putting a cluster's status together takes as long as reading so many rows."""
PEER_SHARE = 0.7
"""Share of a caller's remaining time, if that is short, for the members' answers."""
NODE_STATUS_PATH = "/tq.v1.ClusterService/GetNodeStatus"

ROLES: Mapping[Role, pb.NodeStatus.Role.ValueType] = {
    Role.FOLLOWER: pb.NodeStatus.ROLE_FOLLOWER,
    Role.CANDIDATE: pb.NodeStatus.ROLE_CANDIDATE,
    Role.LEADER: pb.NodeStatus.ROLE_LEADER,
    Role.STRANGER: pb.NodeStatus.ROLE_STRANGER,
    Role.FORMING: pb.NodeStatus.ROLE_FORMING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a node knows of its own process and disk."""

    version: str
    started_at_ms: int
    state_bytes: int
    disk_free_bytes: int
    fsync_p50_s: float
    fsync_p99_s: float
    loop_hold_max_s: float
    loop_hold_cpu_max_s: float = 0.0
    message: str = ""
    warnings: Sequence[str] = ()
    """Warnings that hold until the configuration is changed."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the replicated state says of the cluster."""

    cluster_id: str
    cluster_version: int


class StatusBoard:
    """Puts node and cluster status together."""

    def __init__(
        self,
        *,
        node_id: str,
        apis: Mapping[str, str],
        log: Log,
        links: Links,
        ways: Ways,
        vitals: Callable[[float | None], Vitals],
        facts: Callable[[], ClusterFacts],
        reading: Reading,
    ) -> None:
        self._node_id = node_id
        self._apis = apis
        self._log = log
        self._links = links
        self._ways = ways
        self._vitals = vitals
        self._facts = facts
        self._reading = reading
        self._questions: dict[str, _Questions] = {}

    def info(self) -> pb.GetServerInfoResponse:
        """Return what this node supports."""
        cluster_version = self._facts().cluster_version
        return pb.GetServerInfoResponse(
            version=self._vitals(None).version,
            cluster_version=cluster_version,
            cluster_version_max=CLUSTER_VERSION,
            features=features_at(cluster_version),
            limits=_limits(),
            node_id=self._node_id,
        )

    def node(self, hold_span_s: float | None = None) -> pb.NodeStatus:
        """Return this node's own part; the holds of the loop in the last ``hold_span_s``."""
        status, vitals = self._log.status(), self._vitals(hold_span_s)
        node = pb.NodeStatus(
            node_id=self._node_id,
            address=self._apis[self._node_id],
            role=ROLES[status.role],
            term=status.term,
            leader_id=status.leader_id or "",
            last_index=status.last_index,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            reachable=True,
            version=vitals.version,
            journal_bytes=status.journal_bytes,
            state_bytes=vitals.state_bytes,
            disk_free_bytes=vitals.disk_free_bytes,
            message="; ".join(filter(None, (status.message, vitals.message))),
            peers=_peers(status),
            warnings=vitals.warnings,
        )
        node.started_at.FromMilliseconds(vitals.started_at_ms)
        node.fsync_p50.FromMicroseconds(int(vitals.fsync_p50_s * 1e6))
        node.fsync_p99.FromMicroseconds(int(vitals.fsync_p99_s * 1e6))
        node.loop_hold_max.FromMicroseconds(int(vitals.loop_hold_max_s * 1e6))
        node.loop_hold_cpu_max.FromMicroseconds(int(vitals.loop_hold_cpu_max_s * 1e6))
        return node

    async def cluster(self, cut_s: float) -> pb.GetClusterStatusResponse:
        """Ask every other member; those that do not answer in time are shown as unreachable.

        The answer has to be ready by ``cut_s``, on the loop's clock: a silent member must not use
        up the caller's time for all of them.
        """
        others = sorted(set(self._apis) - {self._node_id})
        left_s = max(0.0, cut_s - asyncio.get_running_loop().time())
        # One question may be under way before these.
        within_s = min(2.5 * PEER_DEADLINE_S, PEER_SHARE * left_s)
        asked = await asyncio.gather(*(self._answer_of(node_id, within_s) for node_id in others))
        await self._reading.room(STATUS_COST)  # one answer may have come for many callers
        nodes = sorted([self.node(), *asked], key=lambda node: node.node_id)
        commit_index = max(node.commit_index for node in nodes)
        for node in nodes:
            if node.reachable:
                node.lag_entries = max(0, commit_index - node.applied_index)
        status, facts = self._log.status(), self._facts()
        return pb.GetClusterStatusResponse(
            cluster_id=facts.cluster_id,
            leader_id=status.leader_id or "",
            term=status.term,
            nodes=nodes,
            limits=_limits(),
            cluster_version=facts.cluster_version,
            asked_node_id=self._node_id,
        )

    async def _answer_of(self, node_id: str, within_s: float) -> pb.NodeStatus:
        """Return a member's answer to a question sent from now on, shared by concurrent callers."""
        questions = self._questions.get(node_id)
        if questions is None:
            questions = _Questions(lambda: self.ask(node_id, PEER_DEADLINE_S))
            self._questions[node_id] = questions
        try:
            async with asyncio.timeout(within_s):
                return await questions.answer()
        except TimeoutError:
            return self._unreachable(node_id, f"no answer within {within_s:.2g} s")

    async def ask(self, node_id: str, within_s: float) -> pb.NodeStatus:
        """Ask a member for its status."""
        api = self._apis[node_id]
        address = self._ways.to(node_id, api)
        reason = "no connection"
        started_s = asyncio.get_running_loop().time()
        if await self._links.connected(address, within_s):
            left_s = started_s + within_s - asyncio.get_running_loop().time()
            request = pb.GetNodeStatusRequest().SerializeToString()
            metadata = None
            if address != api:
                metadata = await self._ways.own_metadata(NODE_STATUS_PATH, request)
            try:
                raw = await self._links.method(address, NODE_STATUS_PATH)(
                    request,
                    timeout=max(left_s, 0.0),
                    metadata=metadata,
                )
                node = pb.GetNodeStatusResponse.FromString(raw).node
            except grpc.aio.AioRpcError as error:
                if address != api and error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._ways.shun(node_id)
                    return await self.ask(node_id, max(left_s, 0.0))
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    reason = f"connected, but no answer within {within_s:.2g} s"
                else:
                    reason = f"{error.code().name}: {error.details()}"
            else:
                if node.node_id == node_id:
                    return node
                reason = f"{node.node_id or 'something else'} answers at its address"
        return self._unreachable(node_id, reason)

    def _unreachable(self, node_id: str, reason: str) -> pb.NodeStatus:
        return pb.NodeStatus(
            node_id=node_id,
            address=self._apis[node_id],
            reachable=False,
            unreachable_reason=reason,
        )


class _Questions:
    """Questions to one member, one after the other: callers that come meanwhile share the next."""

    def __init__(self, ask: Callable[[], Awaitable[pb.NodeStatus]]) -> None:
        self._ask = ask
        self._waiting: list[asyncio.Future[pb.NodeStatus]] = []
        self._asking: asyncio.Task[None] | None = None

    def answer(self) -> asyncio.Future[pb.NodeStatus]:
        """Return the answer to a question that is not sent yet."""
        answer: asyncio.Future[pb.NodeStatus] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        if self._asking is None:
            self._asking = asyncio.create_task(self._answer_all(), name="status questions")
        return answer

    async def _answer_all(self) -> None:
        waiting: list[asyncio.Future[pb.NodeStatus]] = []
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                node = await self._ask()
                for answer in waiting:
                    if not answer.done():
                        answer.set_result(node)
        finally:
            self._asking = None
            for answer in (*waiting, *self._waiting):
                answer.cancel()


def _limits() -> pb.ClusterLimits:
    limits = pb.ClusterLimits(
        payload_bytes_max=DEFAULT_LIMITS.payload_bytes_max,
        message_bytes_max=DEFAULT_LIMITS.message_bytes_max,
        reply_bytes_max=DEFAULT_LIMITS.reply_bytes_max,
        submit_tasks_max=DEFAULT_LIMITS.submit_tasks_max,
    )
    limits.request_id_window.FromMilliseconds(DEFAULT_LIMITS.request_window_ms)
    return limits


def _peers(status: LogStatus) -> Iterable[pb.PeerStatus]:
    for node_id, peer in sorted(status.peers.items()):
        yield pb.PeerStatus(node_id=node_id, connected=peer.connected, match_index=peer.match_index)
