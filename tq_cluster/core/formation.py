"""The first entry of a cluster: who its members are."""

from __future__ import annotations

from tq.internal.v1 import state_pb2
from tq_cluster.core import tables
from tq_cluster.core.batch import CLUSTER_VERSION, Space
from tq_cluster.core.operations import Done, FormCluster, Outcome
from tq_cluster.core.validation import invalid


def decide_formation(space: Space, operation: FormCluster) -> Outcome:
    """Write the membership down, once; written as asked for already, it is done."""
    row = state_pb2.ClusterRow(
        cluster_id=operation.cluster_id,
        cluster_version=CLUSTER_VERSION,
        members=[
            state_pb2.Member(node_id=node_id, incarnation=incarnation)
            for node_id, incarnation in sorted(operation.members.items())
        ],
    )
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    if found is not None:
        formed = state_pb2.ClusterRow.FromString(found)
        row.cluster_version = formed.cluster_version
        if formed == row:
            return Done(more=False)
        return invalid("cluster_id", f"is taken: cluster {formed.cluster_id} was formed here")
    space.workspace.put(tables.META, tables.CLUSTER_KEY, row.SerializeToString(deterministic=True))
    space.batch.changed = True
    return Done(more=False)
