"""The features that GetServerInfo names; docs/operations.md says what each is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tq_cluster.core.calls.purge_queue import PURGE_VERSION
from tq_cluster.core.cluster.replacement import CLUSTER_VERSION_REPLACING
from tq_cluster.core.cluster.scrubbing import SCRUB_VERSION
from tq_cluster.core.kernel.batch import CLUSTER_VERSION_FIRST
from tq_cluster.core.kernel.claims_by_type import BY_TYPE_VERSION
from tq_cluster.core.kernel.continuations import CONTINUATIONS_VERSION

_ANY: Final = CLUSTER_VERSION_FIRST
FEATURES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "backup": _ANY,
        "conversations": _ANY,
        "dead-letter-filter": PURGE_VERSION,
        "dependencies": CONTINUATIONS_VERSION,
        "if-exists": _ANY,
        "purge-at-once": PURGE_VERSION,
        "queue-etag": _ANY,
        "release-give-up-after": _ANY,
        "replace-node": CLUSTER_VERSION_REPLACING,
        "unknown-fields-refused": _ANY,
        "verify-state": SCRUB_VERSION,
        "claim-index-by-type": BY_TYPE_VERSION,
    }
)
"""The cluster version that each needs. A name, once released, stays."""


def features_at(cluster_version: int) -> list[str]:
    """Return the names of the features of a cluster of this version, in order; 0: not formed."""
    return sorted(name for name, needed in FEATURES.items() if needed <= cluster_version)
