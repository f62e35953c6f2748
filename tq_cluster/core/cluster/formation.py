"""The first entry of a cluster: who its members are."""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel import kept_tables
from tq_cluster.core.kernel.batch import Space, tokens_by
from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.operations import Done, FormCluster, Outcome, RaiseVersion
from tq_cluster.core.rows import tables

CLOCKS_APART_MS: Final = 60_000
"""How far ahead of the clocks that a backup is restored by that of whoever made it may have been.

And of two grants within one second the later has to have the higher token, too.
"""


def decide_formation(space: Space, operation: FormCluster) -> Outcome:
    """Write the membership down, once; written as asked for already, it is done."""
    row = state_pb2.ClusterRow(
        cluster_id=operation.cluster_id,
        cluster_version=operation.cluster_version,
        members=[
            state_pb2.Member(node_id=node_id, incarnation=incarnation)
            for node_id, incarnation in sorted(operation.members.items())
        ],
    )
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    formed = state_pb2.ClusterRow.FromString(found or b"")
    if formed.cluster_id:
        row.cluster_version = formed.cluster_version
        if formed == row:
            return Done(more=False)
        return invalid("cluster_id", f"is taken: cluster {formed.cluster_id} was formed here")
    # Restored: not below what the state was decided by.
    row.cluster_version = max(row.cluster_version, formed.cluster_version)
    space.workspace.put(tables.META, tables.CLUSTER_KEY, row.SerializeToString(deterministic=True))
    _begin_tokens(space, operation)
    kept_tables.begin(space, row.cluster_version)
    space.batch.changed = True
    return Done(more=False)


def decide_version(space: Space, operation: RaiseVersion) -> Done:
    """Write the newer version down; one that is not above the present is passed over."""
    found = space.workspace.get(tables.META, tables.CLUSTER_KEY)
    row = state_pb2.ClusterRow.FromString(found or b"")
    if row.cluster_id and row.cluster_version < operation.cluster_version:
        row.cluster_version = operation.cluster_version
        value = row.SerializeToString(deterministic=True)
        space.workspace.put(tables.META, tables.CLUSTER_KEY, value)
        kept_tables.begin(space, row.cluster_version)
        space.batch.changed = True
    return Done(more=False)


def _begin_tokens(space: Space, operation: FormCluster) -> None:
    """Over a restored state: put tokens above all that its cluster can have granted since."""
    found = space.workspace.get(tables.META, tables.RESTORED_KEY)
    if found is None:
        return
    since_ms = operation.wall_ms - state_pb2.RestoredRow.FromString(found).made_at_ms
    # That cluster's log time was what it was when the backup was made, ahead of the wall clocks
    # perhaps, and ran on at most a tenth faster than they.
    reached_ms = max(operation.wall_ms, space.now_ms + max(0, since_ms) * 11 // 10)
    space.counters.token = max(space.counters.token, tokens_by(reached_ms + CLOCKS_APART_MS))
    space.workspace.delete(tables.META, tables.RESTORED_KEY)
