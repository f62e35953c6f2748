"""Every small graph, and random larger ones, against the naive queue."""

from __future__ import annotations

import itertools

import pytest

from tests.core.graphs import ENDS, Graph, Run, all_graphs, random_run

SEEDS = 400
SEEDS_A_TEST = 50


def outcomes(graph: Graph) -> None:
    """Let the tasks of a graph end in every way, in order; then redrive each that failed."""
    for ends in itertools.product(ENDS, repeat=len(graph)):
        run = Run(graph)
        for node, how in enumerate(ends):
            run.end(node, how)
        for node in range(len(graph)):
            run.redrive(node)
            run.end(node, "complete")


@pytest.mark.parametrize("nodes", [1, 2])
def test_every_graph_of_few_nodes_in_every_way(nodes: int) -> None:
    for graph in all_graphs(nodes):
        outcomes(graph)


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_random_moves_on_random_graphs(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        try:
            random_run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
