"""Fields that need a newer cluster version than the cluster decides by (``since``, options.proto).

A leader of older software would strip such a field. So the node that takes a call refuses it, and
forwards nothing, until the cluster's version has risen: from then on every leader knows the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tq_cluster.service import errors
from tq_cluster.service.paths import in_steps
from tq_cluster.service.policy import Policy


class Needs:
    """Compares the fields of requests with the cluster's version."""

    def __init__(self, cluster_version: Callable[[], int]) -> None:
        """``cluster_version`` reads it from this node's state; 0 while the node has none."""
        self._read = cluster_version
        self._version = 0
        """The highest that was read: it never falls."""

    def met(self, policy: Policy) -> bool:
        """Whether the cluster takes every field of the method: then no request is parsed for it."""
        newest = policy.needs_version
        if newest <= self._version:
            return True
        if newest:
            self._version = max(self._version, self._read())
        return newest <= self._version

    async def check(self, policy: Policy, request: Any) -> None:  # noqa: ANN401  # any method's request
        """Raise CallError for a request with a field that needs a newer version."""
        for need in policy.needs:
            if need.cluster_version <= self._version:
                continue
            async for field in in_steps(need.path, need.path.places(request)):
                if field is None:
                    continue
                if not self._version:
                    raise errors.no_leader(
                        f"this node does not know the cluster's version yet, and {field} needs"
                        f" version {need.cluster_version}: ask another node"
                    )
                raise errors.needs_version(field, need.cluster_version, self._version)
