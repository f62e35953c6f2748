"""The first entry of a cluster, which names its members, and its version."""

from __future__ import annotations

from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel import kept_tables
from tq_cluster.core.kernel.batch import Space, tokens_by
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.operations import Done, FormCluster, Outcome, RaiseVersion
from tq_cluster.core.rows import tables

CLOCKS_APART_MS: Final = 60_000
"""The most by which the clock of a backup's maker may lead the clocks of its restore, in ms.

It also gives the later of two grants within one second the higher token.
"""


def decide_formation(space: Space, operation: FormCluster) -> Outcome:
    """Store the membership, once; the same membership again is `Done`, another is refused."""
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
    # A restored state keeps at least the version that it was decided by.
    row.cluster_version = max(row.cluster_version, formed.cluster_version)
    space.workspace.put(tables.META, tables.CLUSTER_KEY, row.SerializeToString(deterministic=True))
    _begin_tokens(space, operation)
    kept_tables.begin(space, row.cluster_version)
    space.batch.changed = True
    return Done(more=False)


def decide_version(space: Space, operation: RaiseVersion) -> Done:
    """Store the newer cluster version; ignore one that is not above the present version."""
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
    """If the state was restored, raise tokens above all that its old cluster can have granted."""
    found = space.workspace.get(tables.META, tables.RESTORED_KEY)
    if found is None:
        return
    since_ms = operation.wall_ms - state_pb2.RestoredRow.FromString(found).made_at_ms
    # The old cluster's log time, perhaps ahead of the wall clocks, is that of the backup; since
    # then it ran at most a tenth faster than they.
    reached_ms = max(operation.wall_ms, space.now_ms + max(0, since_ms) * 11 // 10)
    space.counters.token = max(space.counters.token, tokens_by(reached_ms + CLOCKS_APART_MS))
    space.workspace.delete(tables.META, tables.RESTORED_KEY)


FEATURE: Final = Feature(
    name="formation",
    decisions=(
        decides(FormCluster, decide_formation),
        decides(RaiseVersion, decide_version),
    ),
)
