"""`tq-admin cluster-status` and `transfer-leadership`."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer
from rich.console import Group, RenderableType

from tq.v1.cluster_service_pb2 import (
    GetClusterStatusRequest,
    GetClusterStatusResponse,
    NodeStatus,
    TransferLeadershipRequest,
    TransferLeadershipResponse,
)
from tq.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tq_admin.command import Session
from tq_admin.connection import Cluster
from tq_admin.failures import ExitCode, Failure, Refusal, nobody
from tq_admin.output import details, grid
from tq_admin.plain import Plain, plain

# The asked node asks its peers meanwhile; one that says nothing for so long is as good as down.
STATUS_S = 3.0
COLUMNS = ("NODE", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "REACHABLE", "MESSAGE")


def cluster_status(session: Session) -> None:
    """Show every node's role, term, indexes, lag and reachability.

    Works with nodes down and without a leader; exits with 3 when no leader is known.
    """
    asked, response = _ask_in_turn(session.cluster)
    data = {"asked": asked, **plain(response)}
    session.output.show(data, lambda: _render(data))
    if _leader(response) is None:
        reachable = sum(node.reachable for node in response.nodes)
        raise Failure(
            f"the cluster has no leader: {reachable} of {len(response.nodes)} nodes are reachable",
            "An election takes under a second once a majority is up: start the missing brokers.",
            ExitCode.UNREACHABLE,
        )


def transfer_leadership(
    session: Session,
    node: Annotated[
        str, typer.Argument(help="Who is to lead. Default: the follower that has most.")
    ] = "",
) -> None:
    """Have the leader hand over to a follower; no write is lost."""
    response: TransferLeadershipResponse = session.cluster.call(
        "cannot transfer the leadership" + (f" to {node}" if node else ""),
        lambda channel: ClusterServiceStub(channel).TransferLeadership,
        TransferLeadershipRequest(target_node_id=node),
    )
    session.output.show(plain(response), lambda: details([("leader", response.leader_id)]))


def _ask_in_turn(cluster: Cluster) -> tuple[str, GetClusterStatusResponse]:
    """The first answer that knows a leader; failing that, the one of the latest term."""
    answers: dict[str, GetClusterStatusResponse] = {}
    refusals: dict[str, Refusal] = {}
    for address in cluster.addresses:
        answer = cluster.ask(
            address,
            lambda channel: ClusterServiceStub(channel).GetClusterStatus,
            GetClusterStatusRequest(),
            timeout_s=min(STATUS_S, cluster.timeout_s),
        )
        if isinstance(answer, Refusal):
            refusals[address] = answer
            continue
        answers[address] = answer
        if _leader(answer) is not None:
            return address, answer
    if not answers:
        if all(said.status is grpc.StatusCode.UNIMPLEMENTED for said in refusals.values()):
            raise Failure(
                f"none of {', '.join(refusals)} is a tq broker: they know no GetClusterStatus",
                "Name the brokers: --address HOST:PORT",
            )
        raise nobody("cannot show the cluster", refusals)
    return max(answers.items(), key=lambda item: item[1].term)


def _leader(response: GetClusterStatusResponse) -> NodeStatus | None:
    leaders = [
        node for node in response.nodes if node.reachable and node.role == NodeStatus.ROLE_LEADER
    ]
    return max(leaders, key=lambda node: node.term, default=None)


def _render(data: Plain) -> RenderableType:
    heading = details(
        [
            ("cluster", data["cluster_id"]),
            ("leader", data["leader_id"]),
            ("term", data["term"]),
            ("as seen by", data["asked"]),
        ]
    )
    return Group(heading, grid(COLUMNS, [_row(node) for node in data["nodes"]]))


def _row(node: Plain) -> tuple[object, ...]:
    if not node["reachable"]:
        unknown = ("-",) * 5
        return (node["node_id"], node["address"], *unknown, False, node["unreachable_reason"])
    return (
        node["node_id"],
        node["address"],
        node["role"],
        node["term"],
        node["commit_index"],
        node["applied_index"],
        node["lag_entries"],
        True,
        node["message"],
    )
