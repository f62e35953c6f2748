"""Every test here may ask for a cluster of real processes."""

from tests.cluster.fixtures import cluster

__all__ = ["cluster"]
