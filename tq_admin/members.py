"""`tq-admin replace-node`."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from tq.v1.cluster_service_pb2 import NodeStatus
from tq_admin.confirm import YesOption, confirm
from tq_admin.failures import Failure, doing
from tq_admin.output import details
from tq_admin.session import Session
from tq_client.errors import UnavailableError
from tq_common.visible import visible
from tq_process.span_option import span_option

POLL_S = 0.5
LAG_ENTRIES_MAX = 1_000
"""A node with no more lag than this counts as caught up: it follows its peers' journals."""


def replace_node(
    session: Session,
    node: Annotated[str, typer.Argument(help="The member's node id.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even where the old one is up: it is cut off for good.")
    ] = False,
    wait_s: Annotated[
        float,
        span_option(
            "--wait",
            least_s=0,
            default="10m",
            help="How long to wait until the new one has caught up.",
        ),
    ] = 600.0,
    yes: YesOption = False,
) -> None:
    """Put an empty node in the place of a member whose disk is lost.

    Start it first: under the member's name, with an empty data directory.
    """
    confirm(f"Replace {node}? What its old disk holds is never used again.", yes=yes)
    with doing(f"cannot replace {node}"):
        reply = session.client.replace_node(node, force=force)
    caught_up = _await_caught_up(session, node, wait_s) if wait_s else False
    data = {
        "node_id": reply.node_id,
        "replaced_incarnation": reply.replaced_incarnation,
        "incarnation": reply.incarnation,
        "caught_up": caught_up,
    }
    session.output.show(data, lambda: details(list(data.items())))
    if wait_s and not caught_up:
        raise Failure(
            f"{node} was replaced, but has not caught up within {wait_s:g} s",
            "It goes on by itself: watch it with tq-admin cluster-status --watch",
        )


def _await_caught_up(session: Session, node: str, wait_s: float) -> bool:
    """Wait until the node follows with little lag; shows its progress on stderr."""
    deadline_s = time.monotonic() + wait_s
    told = ""
    while True:
        status = _status_of(session, node)
        if _has_caught_up(status):
            return True
        if time.monotonic() > deadline_s:
            return False
        said = _progress(node, status)
        if said != told:
            sys.stderr.write(f"{visible(said)}\n")
            told = said
        time.sleep(POLL_S)


def _status_of(session: Session, node: str) -> NodeStatus | None:
    try:
        nodes = session.client.cluster_status().nodes
    except UnavailableError:
        return None
    return next((each for each in nodes if each.node_id == node and each.reachable), None)


def _has_caught_up(status: NodeStatus | None) -> bool:
    return (
        status is not None
        and status.role in (NodeStatus.ROLE_FOLLOWER, NodeStatus.ROLE_LEADER)
        and status.lag_entries <= LAG_ENTRIES_MAX
    )


def _progress(node: str, status: NodeStatus | None) -> str:
    if status is None:
        return f"{node} is not reachable"
    said = status.message or f"catches up, {status.lag_entries} entries behind"
    return f"{node}: {said}"
