"""Replace a member's lost disk by another."""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq.v1 import cluster_service_pb2, errors_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.operations import Outcome, Refused, ReplaceNode, Replied
from tq_cluster.core.rows import tables

CLUSTER_VERSION_REPLACING: Final = 2
"""The first version that replaces members: older nodes would still talk to the replaced disk."""


def decide_replacement(space: Space, operation: ReplaceNode) -> Outcome:
    """Name the member's disk from this entry on; the same disk again changes nothing."""
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    row = state_pb2.ClusterRow.FromString(found or b"")
    member = next((each for each in row.members if each.node_id == operation.node_id), None)
    if not row.cluster_id or member is None:
        right = ", ".join(each.node_id for each in row.members) or "nobody yet"
        return invalid("node_id", f"is {operation.node_id[:64]!r}, no member; right is {right}")
    if row.cluster_version < CLUSTER_VERSION_REPLACING:
        return Refused(
            reason=errors_pb2.ERROR_REASON_NOT_REPLACEABLE,
            message=f"the cluster is at version {row.cluster_version}, and replaces members from "
            f"version {CLUSTER_VERSION_REPLACING} on: it rises once all brokers run newer software",
        )
    reply = cluster_service_pb2.ReplaceNodeResponse(
        node_id=member.node_id,
        replaced_incarnation=member.incarnation,
        incarnation=operation.incarnation,
    )
    if member.incarnation != operation.incarnation:
        member.incarnation = operation.incarnation
        space.workspace.put(
            tables.META, tables.CLUSTER_KEY, row.SerializeToString(deterministic=True)
        )
        space.batch.changed = True
        space.batch.members = {each.node_id: each.incarnation for each in row.members}
    return Replied(reply=reply)


FEATURE: Final = Feature(
    name="replacement",
    since=CLUSTER_VERSION_REPLACING,
    decisions=(decides(ReplaceNode, decide_replacement),),
)
