"""Clusters to be broken: processes, containers, network namespaces, and calls to them."""
