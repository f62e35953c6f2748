"""`tq-admin cluster-status`, `server-info` and `transfer-leadership`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, cast

import grpc
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from tq.v1.cluster_service_pb2 import (
    GetClusterStatusRequest,
    GetClusterStatusResponse,
    GetServerInfoResponse,
    NodeStatus,
)
from tq.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tq_admin.failures import ExitCode, Failure, doing, nobody
from tq_admin.output import details, grid, latency, size, span
from tq_admin.plain import Plain, plain
from tq_admin.session import Session
from tq_common.grpc_causes import cause_of

# The asked node asks its peers meanwhile; a node that is silent for so long counts as down.
STATUS_S = 3.0
# Despite its name also the time to connect: a stopped node accepts a connection but is silent.
CHANNEL_OPTIONS = (
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    # A proxy named by the environment is for the web.
    ("grpc.enable_http_proxy", 0),
)
COLUMNS = ("NODE", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "REACHABLE", "MESSAGE")
MESSAGE_SHOWN = 40
"""A longer message is also shown below the table."""
WIDE_COLUMNS = (
    *("NODE", "VERSION", "UP", "FSYNC P50", "FSYNC P99", "HOLD"),
    *("JOURNAL", "STATE", "DISK FREE"),
)


def cluster_status(
    session: Session,
    wide: Annotated[
        bool, typer.Option("--wide", help="Also versions, latencies and what is on the disks.")
    ] = False,
) -> None:
    """Show every node's role, term, indexes, lag and reachability.

    Works with nodes down and without a leader; exits with 3 when no leader is known.
    """
    asked, response = ask_in_turn(session.addresses, min(STATUS_S, session.timeout_s))
    data = {"asked": asked, **plain(response)}
    session.output.show(data, lambda: _render(response, data, wide=wide))
    if leader_of(response) is None:
        reachable = sum(node.reachable for node in response.nodes)
        raise Failure(
            f"the cluster has no leader: {reachable} of {len(response.nodes)} nodes are reachable",
            "Start the missing brokers (tq-cluster serve): an election takes under a second once a"
            " majority is up."
            if reachable < len(response.nodes)
            else "An election takes under a second; where it does not, each node says what it waits"
            " for.",
            ExitCode.UNREACHABLE,
        )


def server_info(session: Session) -> None:
    """Show one broker's version, the cluster's, and the features that it supports now.

    Works without a leader. Ask before you use what is new: all brokers must be of that version.
    """
    with doing("cannot ask for the server's version"):
        info = session.client.server_info()
    session.output.show(plain(info), lambda: details(_server(info)))


def _server(info: GetServerInfoResponse) -> list[tuple[str, object]]:
    known = info.cluster_version or "not known yet: the node waits for its cluster or its state"
    return [
        ("node", info.node_id),
        ("version", info.version),
        ("cluster version", known),
        ("supported up to", info.cluster_version_max),
        ("features", ", ".join(info.features)),
        ("payload at most", size(info.limits.payload_bytes_max)),
        ("call at most", size(info.limits.message_bytes_max)),
        ("reply at most", size(info.limits.reply_bytes_max)),
        ("tasks a submit", info.limits.submit_tasks_max),
        ("request ids kept", span(info.limits.request_id_window.ToTimedelta().total_seconds())),
    ]


def transfer_leadership(
    session: Session,
    node: Annotated[
        str, typer.Argument(help="Who is to lead. Default: the follower that has most.")
    ] = "",
) -> None:
    """Have the leader hand over to a follower; no write is lost."""
    with doing("cannot transfer the leadership" + (f" to {node}" if node else "")):
        leader_id = session.client.transfer_leadership(node)
    session.output.show({"leader_id": leader_id}, lambda: details([("leader", leader_id)]))


def ask_in_turn(
    addresses: tuple[str, ...], timeout_s: float
) -> tuple[str, GetClusterStatusResponse]:
    """The first answer of a member that knows a leader, else the answer with the latest term.

    The client would choose a node itself; here each is asked in turn. The answer of an outsider is
    the last resort.
    """
    answers: dict[str, GetClusterStatusResponse] = {}
    causes: dict[str, str] = {}
    for address in addresses:
        try:
            answers[address] = _ask(address, timeout_s)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)  # a unary call's error is the call itself
            causes[address] = _cause(call, timeout_s)
        else:
            answer = answers[address]
            if leader_of(answer) is not None and outsider(answer) is None:
                return address, answer
    if not answers:
        raise nobody(causes)
    return max(answers.items(), key=lambda item: (outsider(item[1]) is None, item[1].term))


def _cause(call: grpc.Call, timeout_s: float) -> str:
    """Say briefly why a node did not answer."""
    if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout_s:g} s"
    cause = cause_of(call.details() or call.code().name)
    if "HTTP/2" in cause or call.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"no broker's API, whatever else it is: {cause}"
    return cause


def _ask(address: str, timeout_s: float) -> GetClusterStatusResponse:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = ClusterServiceStub(channel)
        return stub.GetClusterStatus(GetClusterStatusRequest(), timeout=timeout_s)


def leader_of(response: GetClusterStatusResponse) -> NodeStatus | None:
    """The node that leads and says so itself."""
    leaders = [
        node for node in response.nodes if node.reachable and node.role == NodeStatus.ROLE_LEADER
    ]
    return max(leaders, key=lambda node: node.term, default=None)


def outsider(response: GetClusterStatusResponse) -> NodeStatus | None:
    """The asked node if it takes no part in the others' cluster, else None."""
    forming, stranger = NodeStatus.ROLE_FORMING, NodeStatus.ROLE_STRANGER
    asked = next((each for each in response.nodes if each.node_id == response.asked_node_id), None)
    if asked is None or asked.role not in {forming, stranger}:
        return None
    members = [
        each for each in response.nodes if each.reachable and each.role not in {forming, stranger}
    ]
    return asked if members or asked.role == stranger else None


def _heading(response: GetClusterStatusResponse, asked: str) -> list[tuple[str, object]]:
    outside = outsider(response)
    if outside is None:
        return [
            ("cluster", response.cluster_id),
            ("leader", response.leader_id),
            ("term", response.term),
            ("as seen by", asked),
        ]
    leader = leader_of(response)
    return [
        ("cluster", f"not known to {outside.node_id}, which is no part of it"),
        ("leader", leader.node_id if leader is not None else ""),
        ("term", leader.term if leader is not None else ""),
        ("as seen by", f"{asked}, an outsider: ask another broker with --address"),
    ]


def _render(response: GetClusterStatusResponse, data: Plain, *, wide: bool) -> RenderableType:
    heading = details(_heading(response, data["asked"]))
    rows = [_row(node) for node in data["nodes"]]
    tables = [grid(COLUMNS, rows, elastic="MESSAGE", optional=("COMMIT", "TERM"))]
    if wide:
        wide_rows = [_wide_row(node) for node in data["nodes"]]
        right = WIDE_COLUMNS[2:]
        tables.append(grid(WIDE_COLUMNS, wide_rows, right=right, optional=("FSYNC P50", "STATE")))
    parts: list[RenderableType] = [heading]
    for each in tables:
        parts += [Text(), each]
    # The table cuts long messages; show them in full below.
    told = {node["node_id"]: node["message"] for node in data["nodes"]}
    long = [f"{name}: {text}" for name, text in told.items() if len(text) > MESSAGE_SHOWN]
    if long:
        parts += [Text(), Text("\n".join(long))]
    if warned := _warnings(data["nodes"]):
        parts += [Text(), Text("\n".join(warned), style="yellow")]
    return Group(*parts)


def _warnings(nodes: Sequence[Plain]) -> list[str]:
    """The nodes' warnings, each with the names of its nodes."""
    by_text: dict[str, list[str]] = {}
    for node in nodes:
        for text in node["warnings"]:
            by_text.setdefault(text, []).append(node["node_id"])
    return [f"warning: {text} ({', '.join(names)})" for text, names in by_text.items()]


def _wide_row(node: Plain) -> tuple[object, ...]:
    if not node["reachable"]:
        return (node["node_id"], *("-",) * (len(WIDE_COLUMNS) - 1))
    return (
        node["node_id"],
        node["version"],
        uptime(node["started_at"]),
        latency(node["fsync_p50"]),
        latency(node["fsync_p99"]),
        latency(node["loop_hold_max"]),
        size(node["journal_bytes"]),
        size(node["state_bytes"]),
        size(node["disk_free_bytes"]),
    )


def uptime(started_at: str | None) -> str:
    """How long ago a node started."""
    if started_at is None:
        return ""
    return span((datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds())


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
