"""All features of the core: each registers itself by its line here, and nowhere else.

A feature's module says in its `Feature` what it does at the moments of a task's life, which
operations it decides, what it does as time passes, which tables it keeps, what must hold of them,
and from which cluster version on.

The order counts: at each moment of a task's life the steps run in the order of this list, the
leader asks for timed work in this order, and tables are filled in it. A feature that must come
first at one moment and last at another is two features.
"""

from __future__ import annotations

from typing import Final

from tq_cluster.core.calls import (
    cancel,
    claim,
    configure_queue,
    dead_letters,
    delete_dead_letters,
    delete_queue,
    purge_queue,
    redrive,
    report,
    submit,
)
from tq_cluster.core.cluster import formation, replacement, restoring, scrubbing
from tq_cluster.core.housekeeping import backfill, due, lease_expiry, request_ids, retention
from tq_cluster.core.kernel import claims_by_type, continuations, task_events
from tq_cluster.core.kernel.dependencies import ends as dependencies
from tq_cluster.core.kernel.feature import Feature, Registry

FEATURES: Final[tuple[Feature, ...]] = (
    # The life of a task.
    submit.FEATURE,
    claim.FEATURE,
    report.FEATURE,
    cancel.FEATURE,
    lease_expiry.FEATURE,
    due.FEATURE,
    dead_letters.FEATURE,
    redrive.FEATURE,
    delete_dead_letters.FEATURE,
    retention.FEATURE,
    request_ids.FEATURE,
    claims_by_type.FEATURE,
    dependencies.FEATURE,
    continuations.FEATURE,
    # Queues.
    configure_queue.FEATURE,
    delete_queue.FEATURE,
    purge_queue.FEATURE,
    # The cluster.
    formation.FEATURE,
    backfill.FEATURE,
    scrubbing.FEATURE,
    replacement.FEATURE,
    restoring.FEATURE,
    # Last: an event tells what all others have made of the task.
    task_events.FEATURE,
)

REGISTRY: Final = Registry(FEATURES)

CLUSTER_VERSION: Final = REGISTRY.cluster_version
"""The newest rules that this code can decide by: the newest ``since`` of a feature.

A leader raises its cluster to the newest version that the software of every member supports.
"""
